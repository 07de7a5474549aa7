//! How what was learned is written down: sections in a fixed order, names sorted, one a line, numbers rounded up to what people would write.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::{LearnOptions, Observations};
use crate::suggest::{pattern, quoted};

/// A side is rounded up to a multiple of this: latents come in cells of 8, and models in patches of several.
const SIDE_STEP: f64 = 64.0;

impl Observations {
    pub(super) fn document(&self, samples: usize, options: &LearnOptions) -> String {
        let mut out = String::new();
        let mut line = |text: &str| {
            out.push_str(text);
            out.push('\n');
        };
        line(&format!(
            "# Learned from {samples} workflow{}: it accepts them and their like. Correct it by hand as you like, and try it with `comfygate policy check`.",
            if samples == 1 { "" } else { "s" }
        ));
        if options.caps {
            line(&format!(
                "# Caps stand {} times above the largest value that was found, rounded up.",
                options.headroom
            ));
        }
        line(&format!("name = {}", quoted(&options.name)));
        line(&format!("description = \"Learned from {samples} workflow{}\"", if samples == 1 { "" } else { "s" }));
        self.write_top(options, &mut out);
        self.write_classes(&mut out);
        write_lists("samplers", &self.samplers, &mut out);
        write_lists("schedulers", &self.schedulers, &mut out);
        for (section, patterns) in &self.lists {
            write_lists(section, patterns, &mut out);
        }
        self.write_caps(options, &mut out);
        self.write_models(&mut out);
        out
    }

    fn write_top(&self, options: &LearnOptions, out: &mut String) {
        if let Some(cost) = self.caps.get("cost_limit").filter(|_| options.caps) {
            let _ = writeln!(out, "cost_limit = {}", (cost * options.headroom).ceil());
        }
    }

    fn write_classes(&self, out: &mut String) {
        let mut modules: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (class, module) in &self.classes {
            modules.entry(module).or_default().push(class);
        }
        out.push_str("\n[classes]\nallow = [\n");
        for (module, classes) in modules {
            let _ = writeln!(out, "    # {}", module.replace(char::is_control, " "));
            for class in classes {
                let _ = writeln!(out, "    {},", quoted(&pattern(class)));
            }
        }
        out.push_str("]\n");
    }

    fn write_models(&self, out: &mut String) {
        for (input, names) in &self.models {
            let _ = write!(out, "\n[[models]]\ninput = {}\nallow = [\n", quoted(&pattern(input)));
            for name in names {
                let _ = writeln!(out, "    {},", quoted(name));
            }
            out.push_str("]\n");
        }
    }

    fn write_caps(&self, options: &LearnOptions, out: &mut String) {
        out.push_str("\n[caps]\n");
        if options.caps {
            let of = |cap: &str| self.caps.get(cap).copied();
            for cap in ["steps", "steps_total"] {
                write_cap(out, cap, of(cap).map(|most| count(most, options.headroom)));
            }
            // A picture may as well stand upright: both sides get the larger one.
            let side = [of("side"), of("width"), of("height")].into_iter().flatten().reduce(f64::max);
            let side = side.map(|most| (most * options.headroom / SIDE_STEP).ceil() * SIDE_STEP);
            write_cap(out, "width", side);
            write_cap(out, "height", side);
            for cap in ["megapixels", "megapixels_total"] {
                write_cap(out, cap, of(cap).map(|most| (most * options.headroom * 10.0).ceil() / 10.0));
            }
            for cap in ["batch", "frames", "nodes", "outputs"] {
                write_cap(out, cap, of(cap).map(|most| count(most, options.headroom)));
            }
            let known = [
                "steps",
                "steps_total",
                "side",
                "width",
                "height",
                "megapixels",
                "megapixels_total",
                "batch",
                "frames",
                "nodes",
                "outputs",
                "denoise_min",
                "cost_limit",
            ];
            for (cap, most) in self.caps.iter().filter(|(cap, _)| !known.contains(&cap.as_str())) {
                write_cap(out, cap, Some((most * options.headroom).ceil()));
            }
            let floor = of("denoise_min").map(|least| (least / options.headroom * 100.0).floor() / 100.0);
            write_cap(out, "denoise_min", floor.filter(|floor| *floor > 0.0));
        }
        let _ = writeln!(out, "vae_scale = {}", options.vae_scale);
        let _ = writeln!(out, "upscale_model_factor = {}", options.upscale_model_factor);
    }
}

/// With headroom; what was always one stays one.
fn count(most: f64, headroom: f64) -> f64 {
    if most <= 1.0 { 1.0 } else { (most * headroom).ceil() }
}

fn write_cap(out: &mut String, cap: &str, value: Option<f64>) {
    if let Some(value) = value.filter(|value| *value > 0.0) {
        let _ = writeln!(out, "{cap} = {value}");
    }
}

fn write_lists(section: &str, names: &BTreeSet<String>, out: &mut String) {
    if names.is_empty() {
        return;
    }
    let names: Vec<String> = names.iter().map(|name| quoted(name)).collect();
    let _ = write!(out, "\n[{section}]\nallow = [{}]\n", names.join(", "));
}
