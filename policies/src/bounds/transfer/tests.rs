//! The judge: for random sizes and numbers, what ComfyUI's own arithmetic gives lies within what the transfer functions say.

use super::*;
use crate::catalogue::TypeSet;

/// xorshift64*: small, deterministic, good enough to wander through sizes.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn between(&mut self, lo: i128, hi: i128) -> i128 {
        lo + i128::from(self.next()) % (hi - lo + 1)
    }

    /// An interval and a value within it.
    fn interval(&mut self, lo: i128, hi: i128) -> (Interval, i128) {
        let (a, b) = (self.between(lo, hi), self.between(lo, hi));
        let interval = Interval::between(a, b);
        let value = self.between(interval.lo, interval.hi);
        (interval, value)
    }

    fn float(&mut self, lo: f64, hi: f64) -> f64 {
        lo + (hi - lo) * (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// One concrete picture.
#[derive(Debug, Clone, Copy)]
struct Picture {
    width: i128,
    height: i128,
}

fn picture(random: &mut Random) -> (Shape, Picture) {
    let (width, w) = random.interval(1, 3000);
    let (height, h) = random.interval(1, 3000);
    (Shape::image(width, height), Picture { width: w, height: h })
}

fn assert_holds(shape: Shape, picture: Picture, what: &str) {
    let Picture { width, height } = picture;
    assert!(shape.width.lo <= width && width <= shape.width.hi, "{what}: width {width} in {shape:?}");
    assert!(shape.height.lo <= height && height <= shape.height.hi, "{what}: height {height} in {shape:?}");
    assert!(width * height <= shape.area, "{what}: area {} in {shape:?}", width * height);
    let ratio = width as f64 / height as f64;
    assert!(
        shape.ratio.lo <= ratio * 1.000_001 && ratio <= shape.ratio.hi * 1.000_001,
        "{what}: ratio {ratio} in {shape:?}"
    );
}

/// Python's `round`: half to even.
fn round(value: f64) -> i128 {
    value.round_ties_even() as i128
}

/// `common_upscale` callers: ImageScale and LatentUpscale (`nodes.py`), pixels.
fn plain_resize(from: Picture, width: i128, height: i128) -> Picture {
    let (w, h) = (from.width as f64, from.height as f64);
    match (width, height) {
        (0, 0) => from,
        (0, height) => Picture { width: round(w * height as f64 / h).max(1), height },
        (width, 0) => Picture { width, height: round(h * width as f64 / w).max(1) },
        (width, height) => Picture { width, height },
    }
}

#[test]
fn resizing_stays_within_bounds() {
    let mut random = Random(1);
    for _ in 0..20_000 {
        let (shape, from) = picture(&mut random);
        let zero = random.next() % 4;
        let (width, w) = if zero & 1 == 1 { random.interval(0, 3) } else { random.interval(1, 3000) };
        let (height, h) = if zero & 2 == 2 { random.interval(0, 0) } else { random.interval(1, 3000) };
        assert_holds(resized(shape, width, height), plain_resize(from, w, h), "resize");
    }
}

#[test]
fn scaling_stays_within_bounds() {
    let mut random = Random(2);
    for _ in 0..20_000 {
        let (shape, from) = picture(&mut random);
        let (a, b) = (random.float(0.01, 8.0), random.float(0.01, 8.0));
        let factor = FloatInterval { lo: a.min(b), hi: a.max(b) };
        let f = random.float(factor.lo, factor.hi);
        let scale = |side: i128| round(side as f64 * f).max(1);
        let to = Picture { width: scale(from.width), height: scale(from.height) };
        assert_holds(scaled(shape, factor), to, "scale");
    }
}

#[test]
fn scaling_to_total_pixels_stays_within_bounds() {
    let mut random = Random(3);
    for _ in 0..20_000 {
        let (shape, from) = picture(&mut random);
        let megapixels = random.float(0.01, 16.0);
        let rounding = random.between(1, 256);
        // `nodes_post_processing.py` ImageScaleToTotalPixels.
        let scale = (megapixels * 1024.0 * 1024.0 / (from.width * from.height) as f64).sqrt();
        let side = |side: i128| (round(side as f64 * scale / rounding as f64) * rounding).max(1);
        let to = Picture { width: side(from.width), height: side(from.height) };
        assert_holds(
            total_pixels(shape, FloatInterval::exactly(megapixels), Interval::exactly(rounding)),
            to,
            "total pixels",
        );
    }
}

#[test]
fn the_other_rules_stay_within_bounds() {
    let mut random = Random(4);
    for _ in 0..20_000 {
        let (shape, from) = picture(&mut random);
        let (number, n) = random.interval(1, 3000);
        let (second, m) = random.interval(1, 3000);
        let crop = Picture { width: from.width.min(n), height: from.height.min(m) };
        assert_holds(cropped(shape, number, second, false), crop, "crop");
        let pad = Picture { width: from.width + n, height: from.height + m };
        assert_holds(padded(shape, number, second), pad, "pad");
        assert_holds(turned(shape), Picture { width: from.height, height: from.width }, "turned");
        let factor = random.between(1, 8);
        let up = Picture { width: from.width * factor, height: from.height * factor };
        assert_holds(upscaled(shape, 8).hull(shape), Picture { ..up }, "upscale");
        // The larger side becomes n.
        let larger = from.width.max(from.height) as f64;
        let side = |side: i128| round(side as f64 * n as f64 / larger).max(1);
        assert_holds(
            largest_side(shape, number),
            Picture { width: side(from.width), height: side(from.height) },
            "largest",
        );
        let smaller = from.width.min(from.height) as f64;
        let side = |side: i128| round(side as f64 * n as f64 / smaller).max(1);
        assert_holds(
            shortest_side(shape, number),
            Picture { width: side(from.width), height: side(from.height) },
            "shortest",
        );
    }
}

#[test]
fn encoding_and_decoding_stays_within_bounds() {
    let mut random = Random(5);
    for _ in 0..20_000 {
        let (width, w) = random.interval(64, 3000);
        let (height, h) = random.interval(64, 3000);
        let shape = Shape::image(width, height);
        // Any VAE of cells of 8 to 32 pixels encodes, any up to `vae_scale` decodes.
        let vae = [8, 16, 32][usize::try_from(random.next() % 3).unwrap()];
        let latent = encoded(shape, 8);
        let cells = (w / vae, h / vae);
        assert_holds(latent, Picture { width: cells.0 * vae, height: cells.1 * vae }, "encode");
        let declared = Shape { cell: 8, ..shape };
        for decoder in [8, 16, 32] {
            let to = Picture { width: w / 8 * decoder, height: h / 8 * decoder };
            assert_holds(decoded(declared, VaeFactors { scale: 32, frames: 8 }), to, "decode");
        }
    }
}

#[test]
fn stitching_stays_within_bounds() {
    let mut random = Random(6);
    for _ in 0..20_000 {
        let (first, a) = picture(&mut random);
        let (second, b) = picture(&mut random);
        let gap = random.between(0, 100);
        let even = gap + gap % 2;
        let fitted = |side: i128, to: i128, of: i128| (side as f64 * (to as f64 / of as f64)) as i128;
        let matched = Picture { width: a.width + even + fitted(a.height, b.width, b.height), height: a.height };
        let padded = Picture { width: a.width + even + b.width, height: a.height.max(b.height) };
        let gap = Interval::exactly(gap);
        let known = |direction, matched| stitched(first, second, gap, direction, matched);
        assert_holds(known(Some("right"), Some(true)), matched, "beside, matched");
        assert_holds(known(Some("left"), Some(false)), padded, "beside, padded");
        let above = Picture {
            width: a.width,
            height: a.height + even + (a.width as f64 / (b.width as f64 / b.height as f64)) as i128,
        };
        assert_holds(known(Some("down"), Some(true)), above, "above, matched");
        for picture in [matched, padded, above] {
            assert_holds(known(None, None), picture, "in whatever way");
        }
    }
}

/// What a VAE of unknown factor makes of a square is a square, and two in a row are twice as wide as high.
#[test]
fn the_ratio_of_a_row_follows_from_those_of_its_pictures() {
    let square = decoded(
        Shape { cell: 8, ..Shape::image(Interval::exactly(1024), Interval::exactly(1024)) },
        VaeFactors { scale: 8, frames: 4 },
    );
    let none = Interval::exactly(0);
    let row = stitched(square, square, none, Some("right"), Some(true));
    assert!(row.ratio.lo > 1.8 && row.ratio.hi < 2.2, "{:?}", row.ratio);
    let column = stitched(square, square, none, Some("down"), Some(true));
    assert!(column.ratio.lo > 0.45 && column.ratio.hi < 0.55, "{:?}", column.ratio);
    let rows = stitched(row, row, none, Some("up"), Some(true));
    assert!(rows.height.hi < 4096, "{rows:?}");
    // Without the same height nothing follows.
    let padded = stitched(square, square, none, Some("right"), Some(false));
    assert!(padded.ratio.hi > 2.2, "{:?}", padded.ratio);
}

#[test]
fn resizing_a_latent_stays_within_bounds_whatever_its_cells_are() {
    let mut random = Random(8);
    for _ in 0..20_000 {
        let (width, w) = random.interval(64, 3000);
        let (height, h) = random.interval(64, 3000);
        let cell = [8, 16, 32][usize::try_from(random.next() % 3).unwrap()];
        let shape = Shape { cell, ..Shape::image(width, height) };
        let zero = random.next() % 3;
        let (to_width, tw) = if zero == 1 { (Interval::exactly(0), 0) } else { random.interval(1, 3000) };
        let (to_height, th) = if zero == 2 { (Interval::exactly(0), 0) } else { random.interval(1, 3000) };
        let (cells_w, cells_h) = ((w / cell) as f64, (h / cell) as f64);
        let (tw, th) = match (tw, th) {
            (0, th) => (round(cells_w * th.max(64) as f64 / cells_h).max(64), th.max(64)),
            (tw, 0) => (tw.max(64), round(cells_h * tw.max(64) as f64 / cells_w).max(64)),
            (tw, th) => (tw.max(64), th.max(64)),
        };
        let latent = latent_resized(shape, to_width, to_height);
        for decoder in [8, 16, 32] {
            let to = Picture { width: tw / 8 * decoder, height: th / 8 * decoder };
            let out = decoded(latent, VaeFactors { scale: 32, frames: 8 });
            assert!(to.width <= out.width.hi && to.height <= out.height.hi, "{to:?} in {out:?} of {latent:?}");
        }
    }
}

#[test]
fn scaling_a_latent_stays_within_bounds_whatever_its_cells_are() {
    let mut random = Random(7);
    for _ in 0..20_000 {
        let (width, w) = random.interval(64, 3000);
        let (height, h) = random.interval(64, 3000);
        let declared = [8, 16, 32][usize::try_from(random.next() % 3).unwrap()];
        let shape = Shape { cell: declared, ..Shape::image(width, height) };
        let f = random.float(0.1, 8.0);
        for cell in [8, 16, 32].into_iter().filter(|cell| *cell >= declared) {
            let scale = |side: i128| round((side / cell) as f64 * f) * cell;
            let to = Picture { width: scale(w), height: scale(h) };
            let out = scaled(shape, FloatInterval::exactly(f));
            assert!(to.width <= out.width.hi && to.height <= out.height.hi, "{to:?} in {out:?}");
            assert!(to.width * to.height <= out.area, "{to:?} in {out:?}");
        }
    }
}

#[test]
fn batches_add_and_multiply() {
    let one = Shape::image(Interval::exactly(64), Interval::exactly(64));
    let two = one.joined(one);
    assert_eq!(two.batch, Interval::exactly(2));
    assert_eq!(repeated(two, Interval::between(1, 64)).batch, Interval::between(2, 128));
    let video = Shape { frames: Interval::exactly(9), ..one };
    assert_eq!(video.joined(one).frames, Interval::exactly(10));
    assert_eq!(repeated(two, Interval::exactly(64)).pixels_total(), 128 * 64 * 64);
}

/// Every rule of the shipped annotations, those within rules too.
fn shipped_rules() -> Vec<(&'static ClassSignature, &'static SizeRule)> {
    let mut open: Vec<(&ClassSignature, &SizeRule)> = Vec::new();
    for class in crate::Catalogue::builtin().classes() {
        let mut seen: Vec<&SizeRule> = Vec::new();
        for rule in (0..class.outputs().len()).filter_map(|slot| class.size_rule(slot)) {
            if !seen.contains(&rule) {
                seen.push(rule);
                open.push((class, rule));
            }
        }
    }
    let mut all = Vec::new();
    while let Some((class, rule)) = open.pop() {
        all.push((class, rule));
        match rule {
            SizeRule::AnyOf(rules) => open.extend(rules.iter().map(|rule| (class, rule))),
            SizeRule::IfGiven(rule) => open.extend([(class, &rule.then), (class, &rule.otherwise)]),
            SizeRule::Times(rule) => open.push((class, &rule.of)),
            SizeRule::AsLatent(rule) => open.push((class, &rule.of)),
            SizeRule::Working(rule) => open.push((class, &rule.of)),
            _ => {}
        }
    }
    all
}

/// The numbers that a rule reads: a link to one that nobody knows must be refused, or the size is none.
fn amounts(amount: &Amount, out: &mut (Vec<String>, Vec<String>)) {
    match amount {
        Amount::Exactly(_) => {}
        Amount::Input(name) => out.0.push(name.clone()),
        Amount::Of(formula) => match formula.as_ref() {
            Formula::WidthOf(name)
            | Formula::HeightOf(name)
            | Formula::BatchOf(name)
            | Formula::FramesOf(name)
            | Formula::CountOf(name)
            | Formula::CellsAcross(name)
            | Formula::CellsDown(name)
            | Formula::ObjectsIn(name)
            | Formula::ArraysIn(name)
            | Formula::ItemsOf(name) => out.1.push(name.clone()),
            Formula::Plus(all)
            | Formula::Times(all)
            | Formula::Least(all)
            | Formula::Greatest(all)
            | Formula::Between(all) => {
                all.iter().for_each(|amount| amounts(amount, out));
            }
            Formula::Minus(pair) | Formula::Over(pair) => {
                amounts(&pair.0, out);
                amounts(&pair.1, out);
            }
            Formula::Ceil(name) => out.0.push(name.clone()),
            Formula::IfGiven(choice) => {
                amounts(&choice.1, out);
                amounts(&choice.2, out);
            }
            Formula::Given(_) => {}
        },
    }
}

/// The inputs that a rule names: numbers, and things with a size.
fn named(rule: &SizeRule) -> (Vec<String>, Vec<String>) {
    let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let mut out = (Vec::new(), Vec::new());
    match rule {
        SizeRule::None
        | SizeRule::Unbounded(_)
        | SizeRule::Numbers(_)
        | SizeRule::BySlot(_)
        | SizeRule::AnyOf(_)
        | SizeRule::AsLatent(_)
        | SizeRule::ByChoice(_)
        | SizeRule::File(_)
        | SizeRule::FilmFile(_)
        | SizeRule::SoundFile(_) => {}
        SizeRule::Same(a)
        | SizeRule::Turned(a)
        | SizeRule::TurnedLatent(a)
        | SizeRule::Part(a)
        | SizeRule::CropLatent(a)
        | SizeRule::Decode(a)
        | SizeRule::Encode(a)
        | SizeRule::UpscaleModel(a)
        | SizeRule::KontextScale(a)
        | SizeRule::ResizeAny(a)
        | SizeRule::Crop(a)
        | SizeRule::JoinRow(a)
        | SizeRule::PictureOf(a)
        | SizeRule::PartOf(a)
        | SizeRule::SoundOf(a) => out.1.push(a.clone()),
        SizeRule::LargerBatch(all) | SizeRule::Join(all) | SizeRule::SoundJoin(all) | SizeRule::SoundLongest(all) => {
            out.1.extend(all.iter().cloned())
        }
        SizeRule::Fit(rule) => out = (strings(&[&rule.width, &rule.height]), strings(&[&rule.of])),
        SizeRule::JoinCounted(rule) => out = (strings(&[&rule.count]), strings(&[&rule.first])),
        SizeRule::Fewer(rule) => out = named(rule),
        SizeRule::Resize(a) => out = (strings(&["width", "height"]), strings(&[a])),
        SizeRule::Target(a) => out = (strings(&["target_width", "target_height"]), strings(&[a])),
        SizeRule::ScaleBy(rule) => out = (strings(&[&rule.by]), strings(&[&rule.of])),
        SizeRule::TotalPixels(a) => out = (strings(&["megapixels"]), strings(&[a])),
        SizeRule::LargestSide(rule) | SizeRule::ShortestSide(rule) => {
            out = (strings(&[&rule.to]), strings(&[&rule.of]));
        }
        SizeRule::Pad(a) => out = (strings(&["left", "right", "top", "bottom"]), strings(&[a])),
        SizeRule::Stitch => out = (strings(&["spacing_width"]), strings(&["image1", "image2", "direction"])),
        SizeRule::Repeat(rule) => {
            out.1.push(rule.of.clone());
            amounts(&rule.times, &mut out);
        }
        SizeRule::Made(made) => {
            amounts(&made.width, &mut out);
            amounts(&made.height, &mut out);
            made.batch.iter().chain(&made.frames).for_each(|amount| amounts(amount, &mut out));
        }
        SizeRule::Times(rule) => {
            let all = [&rule.width, &rule.height, &rule.batch, &rule.frames];
            all.into_iter().flatten().for_each(|amount| amounts(amount, &mut out));
        }
        SizeRule::First(rule) => out.1 = strings(&[&rule.of, &rule.length]),
        SizeRule::Working(rule) => amounts(&rule.times, &mut out),
        SizeRule::Sampled(rule) => out.1 = strings(&[&rule.of, &rule.sampler]),
        SizeRule::Concat(rule) => out.1 = strings(&[&rule.first, &rule.second, &rule.along]),
        SizeRule::CutToBatch(rule) => {
            out.1 = strings(&[&rule.of, &rule.along]);
            amounts(&rule.size, &mut out);
        }
        SizeRule::Rebatch(rule) => {
            out.1.push(rule.of.clone());
            amounts(&rule.size, &mut out);
        }
        SizeRule::SoundAtMost(rule) => out.1 = strings(&[&rule.of, &rule.seconds]),
        SizeRule::IfGiven(rule) => out.1.push(rule.input.clone()),
        SizeRule::Switch(switch) => out.1 = strings(&[&switch.by, &switch.on_true, &switch.on_false]),
        SizeRule::Film(film) => {
            out.1.push(film.pictures.clone());
            out.1.extend(film.sound.clone());
        }
        SizeRule::Sound(rule) => {
            out.0 = [&rule.seconds, &rule.frames, &rule.rate].into_iter().flatten().cloned().collect();
            rule.batch.iter().for_each(|amount| amounts(amount, &mut out));
        }
    }
    out
}

#[test]
fn every_rule_is_of_a_class_that_makes_something_with_a_size() {
    for (class, rule) in shipped_rules() {
        let shaped = |output: &crate::catalogue::OutputSignature| {
            TypeSet::declared(output.type_name()).meets(TypeSet::SHAPED) || output.template().is_some()
        };
        assert!(class.outputs().iter().any(shaped), "{}", class.name());
        assert!(!matches!(rule, SizeRule::BySlot(_)), "{}: by_slot stands at the top only", class.name());
        if let SizeRule::Numbers(_) = rule {
            let has = |kind| class.inputs().iter().any(|input| input.kind() == Some(kind));
            let sides = has(InputKind::Width) && has(InputKind::Height);
            assert!(sides || has(InputKind::Side), "{}", class.name());
        }
    }
}

#[test]
fn every_input_that_a_rule_names_is_declared() {
    for (class, rule) in shipped_rules() {
        let (numbers, others) = named(rule);
        for input in numbers.iter().chain(&others) {
            assert!(class.inputs().iter().any(|known| known.name() == input), "{}.{input}", class.name());
        }
    }
}

/// ComfyUI does not check the range of a linked number, so a rule may only read those whose links the caps rule judges.
#[test]
fn every_number_that_a_rule_reads_is_judged_when_it_is_linked() {
    let policy = crate::Policy::from_toml("name = \"x\"\n[caps]\nwidth = 1\nseconds = 1").unwrap();
    for (class, rule) in shipped_rules() {
        for name in named(rule).0 {
            let input = class.inputs().iter().find(|input| input.name() == name).unwrap();
            let need = input.kind().map(|kind| crate::bounds::need(kind, &policy.caps));
            assert!(need.is_some_and(|need| need != crate::bounds::Need::None), "{}.{name}", class.name());
        }
    }
}
