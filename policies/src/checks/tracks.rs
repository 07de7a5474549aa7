//! Lines that are drawn pixel by pixel. `WanMoveVisualizeTracks` draws a point for each pixel between two places of a track, in Python, and nothing interrupts it: two places that are 10¹⁵ pixels
//! apart are for ever (ComfyUI 0.8.0, `comfy_extras/nodes_wanmove.py`). Like the rules of [`crash`](super::crash) this holds under every policy.

use super::{Subject, of};
use crate::bounds::{Value, number};
use crate::catalogue::{ClassSignature, TypeSet};
use crate::verdict::{Violation, ViolationKind};
use crate::workflow::graph::links;
use crate::workflow::link::Link;
use crate::workflow::node::{Input, Node};

/// Points of all lines that one node draws. One takes 10 µs, so that these are three quarters of an hour.
const POINTS_MAX: f64 = 268_435_456.0;
/// How often the way of a generated track is as long as the picture is wide and high: there and back, with a bend.
const BENDS: f64 = 6.0;

/// Inputs of `GenerateTracks` that are places, as parts of the picture.
const PLACES: [&str; 7] = ["start_x", "start_y", "end_x", "end_y", "mid_x", "mid_y", "track_spread"];

pub(super) fn check(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    let draws = |class: &ClassSignature| class.is_core() && class.name() == "WanMoveVisualizeTracks";
    if !subject.known().any(|(_, _, class)| draws(class)) {
        return;
    }
    // How long the ways of all tracks together are, by node.
    let mut lengths = vec![0.0_f64; subject.parsed.workflow.nodes().len()];
    for (place, node) in subject.parsed.workflow.sources_first() {
        let Some(class) = subject.facts.class_at(place) else { continue };
        let of_link = |link: Link| lengths.get(link.target.number()).copied().unwrap_or(0.0);
        if draws(class) {
            let Some(Input::Link(link)) = node.input("tracks") else { continue };
            // Each part of a way is drawn in so many pictures.
            let points = of_link(*link) * largest(subject, node, class, "line_resolution");
            out.extend((points.is_nan() || points > POINTS_MAX).then(|| too_many_points(node, points)));
            continue;
        }
        let tracks = TypeSet::TRACKS.and(TypeSet::ANY).and(TypeSet::OTHER);
        let length = match class.name() {
            "GenerateTracks" if class.is_core() => generated(subject, node, class),
            "WanMoveTracksFromCoords" if class.is_core() => written(subject, node),
            // Tracks of all that come in, or of one of them.
            _ if (0..class.outputs().len()).any(|slot| class.output_types(slot).meets(tracks)) => {
                links(node).map(of_link).sum()
            }
            _ => 0.0,
        };
        if let Some(known) = lengths.get_mut(place.number()) {
            *known = length;
        }
    }
}

fn too_many_points(node: &Node, points: f64) -> Violation {
    let message = format!(
        "may draw {points:.0} points one by one, and no more than {POINTS_MAX:.0} leave a ComfyUI running: the places of its tracks must be known, and within the picture"
    );
    let (bound, limit) = (Some(format!("{points:.0}")), Some(format!("{POINTS_MAX:.0}")));
    Violation { bound, limit, ..of(node, "tracks_exceeded", ViolationKind::Denied, message) }
}

/// The largest that a number may be, whichever its sign; infinite where nobody knows.
#[expect(clippy::cast_precision_loss, reason = "compared with a bound far below 2^53")]
fn largest(subject: &Subject<'_>, node: &Node, class: &ClassSignature, name: &str) -> f64 {
    let Some(input) = class.input(node, name) else { return 0.0 };
    match number(&subject.facts, node, name, input.declared()) {
        Value::Int(value) => (value.lo as f64).abs().max((value.hi as f64).abs()),
        Value::Float(value) => value.lo.abs().max(value.hi.abs()),
        Value::Bool(_) | Value::Unknown => f64::INFINITY,
    }
}

fn generated(subject: &Subject<'_>, node: &Node, class: &ClassSignature) -> f64 {
    let of = |name: &str| largest(subject, node, class, name);
    let tracks = of("num_tracks").max(1.0);
    // A spread moves each track away from the middle by so many times its number.
    let furthest = PLACES.into_iter().map(|name| if name == "track_spread" { of(name) * tracks } else { of(name) });
    let furthest = furthest.fold(1.0, f64::max);
    tracks * furthest * (of("width") + of("height")) * BENDS
}

/// Of places in a text: no way is longer than all numbers together, twice.
fn written(subject: &Subject<'_>, node: &Node) -> f64 {
    let name = "track_coords";
    if node.input(name).is_none() {
        return 0.0;
    }
    let Some(texts) = subject.possible_texts().at(node, name) else { return f64::INFINITY };
    texts.iter().map(|text| 2.0 * sum_of_numbers(text)).fold(0.0, f64::max)
}

/// The sum of all numbers in a JSON text, without their signs; infinite if one of them can't be read, or is none.
fn sum_of_numbers(text: &str) -> f64 {
    // Python reads these for numbers.
    if text.contains("Infinity") || text.contains("NaN") {
        return f64::INFINITY;
    }
    let of_number = |byte: char| byte.is_ascii_digit() || matches!(byte, '+' | '-' | '.' | 'e' | 'E');
    let numbers =
        text.split(|character| !of_number(character)).filter(|part| part.contains(|c: char| c.is_ascii_digit()));
    numbers.map(|part| part.parse::<f64>().map_or(f64::INFINITY, f64::abs)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_summed_up_in_every_spelling_that_python_reads() {
        for (text, sum) in [
            ("[]", 0.0),
            (r#"[{"x":1,"y":-2.5},{"x":1e3,"y":0}]"#, 1003.5),
            ("[{'x': 1E2, 'y': 1}]", 101.0),
            (r#"{"x":1e400}"#, f64::INFINITY),
            (r#"{"x":-Infinity}"#, f64::INFINITY),
            (r#"{"x":NaN}"#, f64::INFINITY),
            (r#"{"x":1-2}"#, f64::INFINITY),
        ] {
            assert_eq!(sum_of_numbers(text), sum, "{text}");
        }
    }
}
