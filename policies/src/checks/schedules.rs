//! Schedules that a sampler never comes to the end of. `dpmpp_sde` and its kin take their noise from a tree of Brownian motion over the logarithms of the noise levels; asked for a level of 0, below 0,
//! or beyond a 32-bit float, the tree divides for ever and takes memory meanwhile, and no interrupt reaches it (ComfyUI 0.8.0, `k_diffusion/sampling.py` `BrownianTreeNoiseSampler`; measured).
//!
//! So beside such a sampler the numbers that noise levels are made of keep to what makes levels above 0. No ordinary workflow is near these bounds.

use super::crash::LINKED_SIGMAS_BYTES_MAX;
use super::possible_texts::ReadOnce;
use super::{Subject, at};
use crate::bounds::{Value, chain, number};
use crate::catalogue::{ClassSignature, InputKind};
use crate::verdict::{Violation, ViolationKind};
use crate::workflow::node::{Input, Node};

/// Classes that give such a sampler.
const CLASSES: [&str; 3] = ["SamplerDPMPP_SDE", "SamplerDPMPP_2M_SDE", "SamplerDPMPP_3M_SDE"];
/// The least noise level that is taken for one.
const LEVEL_MIN: f64 = 1e-6;
/// The largest; ComfyUI's own inputs end at 20,000, and levels are 32-bit floats.
const LEVEL_MAX: f64 = 1e6;
/// `exp` of a larger shift is no 32-bit float.
const SHIFT_MAX: f64 = 80.0;
/// Pixels that a FLUX model takes for one token.
const FLUX_TOKEN_PIXELS: f64 = 256.0;
/// Tokens between the two shifts of FLUX, and of LTXV.
const FLUX_TOKENS: f64 = 3840.0;
const LTXV_TOKENS: f64 = 3072.0;
/// What LTXV's nodes take for the number of tokens where no latent is linked.
const LTXV_TOKENS_UNSAID: f64 = 4096.0;

/// Numbers that make levels above 0 of usual size: class, input, least, most.
const RANGES: [(&str, &str, f64, f64); 21] = [
    ("KarrasScheduler", "sigma_max", LEVEL_MIN, 5000.0),
    ("KarrasScheduler", "sigma_min", 0.0, 5000.0),
    ("KarrasScheduler", "rho", 0.0, 100.0),
    ("ExponentialScheduler", "sigma_max", 0.0, 5000.0),
    ("ExponentialScheduler", "sigma_min", 0.0, 5000.0),
    ("PolyexponentialScheduler", "sigma_max", 0.0, 5000.0),
    ("PolyexponentialScheduler", "sigma_min", 0.0, 5000.0),
    ("PolyexponentialScheduler", "rho", 0.0, 100.0),
    ("LaplaceScheduler", "sigma_max", LEVEL_MIN, 5000.0),
    ("LaplaceScheduler", "sigma_min", 0.0, 5000.0),
    ("LaplaceScheduler", "mu", -10.0, 10.0),
    ("LaplaceScheduler", "beta", 0.0, 10.0),
    // `expm1(beta_d / 2 + beta_min)`
    ("VPScheduler", "beta_d", 0.0, 100.0),
    ("VPScheduler", "beta_min", 0.0, 30.0),
    ("VPScheduler", "eps_s", 0.0, 1.0),
    ("SetFirstSigma", "sigma", LEVEL_MIN, LEVEL_MAX),
    // `shift * t / (1 + (shift - 1) * t)`, where t may be 1.
    ("ModelSamplingSD3", "shift", 0.001, LEVEL_MAX),
    ("ModelSamplingAuraFlow", "shift", 0.001, LEVEL_MAX),
    ("ModelSamplingStableCascade", "shift", 0.001, LEVEL_MAX),
    ("ModelSamplingContinuousEDM", "sigma_max", LEVEL_MIN, 5000.0),
    ("ModelSamplingContinuousV", "sigma_max", LEVEL_MIN, 5000.0),
];

pub(super) fn check(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    if !subject.known().any(|(_, node, class)| takes_brownian_noise(node, class)) {
        return;
    }
    let mut findings = ReadOnce::new();
    for (_, node, class) in subject.known().filter(|(_, _, class)| class.is_core()) {
        if class.name() == "ManualSigmas" {
            out.extend(levels_fault(subject, &mut findings, node));
        }
        for (_, input, least, most) in RANGES.iter().filter(|(of, ..)| *of == class.name()) {
            let value = value_of(subject, node, class, input);
            out.extend(range_fault(subject, node, input, value, (*least, *most)));
        }
        out.extend(shift_fault(subject, node, class));
    }
}

/// Whether a node samples, or may sample, with noise from a Brownian tree.
fn takes_brownian_noise(node: &Node, class: &ClassSignature) -> bool {
    if class.is_core() && CLASSES.contains(&class.name()) {
        return true;
    }
    if !class.may_have(InputKind::Sampler) {
        return false;
    }
    let of_sampler = |name: &str| class.input_kind(node, name) == Some(InputKind::Sampler);
    node.inputs.iter().filter(|(name, _)| of_sampler(name)).any(|(name, input)| match input {
        Input::Literal(_) => node.text(name).is_some_and(is_brownian),
        // A name that nobody sees may be any.
        Input::Link(_) => true,
    })
}

fn is_brownian(name: &str) -> bool {
    name.contains("dpmpp") && name.contains("sde")
}

#[expect(clippy::cast_precision_loss, reason = "compared with bounds far below 2^53")]
fn value_of(subject: &Subject<'_>, node: &Node, class: &ClassSignature, input: &str) -> Option<(f64, f64)> {
    let signature = class.input(node, input)?;
    match number(&subject.facts, node, input, signature.declared()) {
        Value::Int(value) => Some((value.lo as f64, value.hi as f64)),
        Value::Float(value) => Some((value.lo, value.hi)),
        Value::Bool(_) | Value::Unknown => None,
    }
}

fn refused(node: &Node, input: &str, message: String) -> Violation {
    at(node, input, "schedule_refused", ViolationKind::Denied, message)
}

const WHY: &str =
    "beside a sampler with Brownian noise (`dpmpp_sde` and its kin), which never ends at other noise levels";

fn range_fault(
    subject: &Subject<'_>,
    node: &Node,
    input: &str,
    value: Option<(f64, f64)>,
    (least, most): (f64, f64),
) -> Option<Violation> {
    // What is missing, and has no default, is ComfyUI's to refuse.
    node.input(input)?;
    let (lo, hi) = value.unwrap_or((f64::NEG_INFINITY, f64::INFINITY));
    if lo >= least && hi <= most {
        return None;
    }
    let bound = if lo < least { lo } else { hi };
    let limit = if lo < least { least } else { most };
    let message = format!("{input} may be {bound}, and must be from {least} to {most} {WHY}");
    let (bound, limit) = (Some(bound.to_string()), Some(limit.to_string()));
    let chain = chain(&subject.facts, node, input);
    Some(Violation { bound, limit, chain, ..refused(node, input, message) })
}

/// All levels but the last ones, which may be 0, are above it.
fn levels_fault(subject: &Subject<'_>, findings: &mut ReadOnce<()>, node: &Node) -> Option<Violation> {
    let linked = matches!(node.input("sigmas")?, Input::Link(_));
    let message = |what: &str| format!("{what} {WHY}: numbers above 0, and 0 only at the end");
    let Some(texts) = subject.possible_texts().at(node, "sigmas") else {
        return Some(refused(node, "sigmas", message("noise levels that can't be followed are not taken")));
    };
    // What is too long for a link is refused as such already: it is not read.
    let too_long = |text: &str| linked && i128::try_from(text.len()).is_ok_and(|bytes| bytes > LINKED_SIGMAS_BYTES_MAX);
    findings.of(node, "sigmas", (), texts, |text| {
        let good = !too_long(text) && are_levels(text);
        (!good).then(|| refused(node, "sigmas", message("these are no noise levels")))
    })
}

/// Whether a text is a list of plain decimal numbers, all above 0 but for those at the end. ComfyUI finds numbers in any text; one that holds more than a list is not understood here.
fn are_levels(text: &str) -> bool {
    let numbers: Vec<&str> =
        text.split(|c: char| c == ',' || c == ';' || c.is_whitespace()).filter(|part| !part.is_empty()).collect();
    let plain = |number: &str| {
        let number = number.strip_prefix('+').unwrap_or(number);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let good = digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty());
        good.then(|| number.parse::<f64>().ok()).flatten().filter(|level| *level <= LEVEL_MAX)
    };
    let levels: Option<Vec<f64>> = numbers.into_iter().map(plain).collect();
    let Some(levels) = levels else { return false };
    let end = levels.iter().rposition(|level| *level != 0.0).map_or(0, |last| last + 1);
    levels.iter().take(end).all(|level| *level >= LEVEL_MIN)
}

/// FLUX and LTXV take the exponential of a shift that grows, or falls, with the number of tokens.
fn shift_fault(subject: &Subject<'_>, node: &Node, class: &ClassSignature) -> Option<Violation> {
    let known = |input: &str| value_of(subject, node, class, input);
    let tokens = match class.name() {
        "ModelSamplingFlux" => known("width").zip(known("height")).map(|(width, height)| {
            let least = width.0.min(height.0);
            if least < 0.0 { f64::INFINITY } else { width.1 * height.1 / FLUX_TOKEN_PIXELS / FLUX_TOKENS }
        }),
        "LTXVScheduler" | "ModelSamplingLTXV" => latent_tokens(subject, node).map(|tokens| tokens / LTXV_TOKENS),
        _ => return None,
    };
    let shift = || {
        let ((max_lo, max_hi), (base_lo, base_hi)) = known("max_shift").zip(known("base_shift"))?;
        let apart = (max_hi - base_lo).abs().max((base_hi - max_lo).abs());
        Some(base_lo.abs().max(base_hi.abs()) + apart * (1.0 + tokens?))
    };
    let shift = shift().unwrap_or(f64::INFINITY);
    // Written so that what is not a number is refused.
    if shift <= SHIFT_MAX {
        return None;
    }
    let message = format!("the shift may be {shift:.0}, and at most {SHIFT_MAX} is taken {WHY}");
    let (bound, limit) = (Some(format!("{shift:.0}")), Some(SHIFT_MAX.to_string()));
    Some(Violation { bound, limit, ..refused(node, "max_shift", message) })
}

/// Cells of the latent that is linked; none if nobody knows.
#[expect(clippy::cast_precision_loss, reason = "compared with bounds far below 2^53")]
fn latent_tokens(subject: &Subject<'_>, node: &Node) -> Option<f64> {
    let Some(input) = node.input("latent") else { return Some(LTXV_TOKENS_UNSAID) };
    let Input::Link(link) = input else { return None };
    let shape = subject.facts.slot(*link)?.shape?;
    let (across, in_time) = (shape.cell.max(1) as f64, shape.tempo.max(1) as f64);
    // One moment more than whole cells.
    Some(shape.area as f64 / (across * across) * (shape.frames.hi as f64 / in_time + 1.0))
}

#[cfg(test)]
mod tests {
    use super::are_levels;

    #[test]
    fn levels_are_above_0_but_at_the_end() {
        for good in ["1.0, 0.5, 0.0", "1., 0.99375, .5, 0", "14.6 7 0.03", "3, 2, 1, 0, 0", "", "0", "+1, 0.5"] {
            assert!(are_levels(good), "{good:?}");
        }
        let bad = [
            "3, 0, 2, 0",
            "0, 1",
            "-1, 0",
            "1, -0.5",
            "1e9, 1",
            "1-2",
            "1..5, 0",
            "nan, 1",
            "9999999, 1, 0",
            "1, 0.0000001, 0",
            "１, 0.5",
            "1,x",
        ];
        for bad in bad {
            assert!(!are_levels(bad), "{bad:?}");
        }
    }
}
