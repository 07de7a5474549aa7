//! What brings a ComfyUI down, whoever asks for it (facts §3.6). These rules hold under every policy, in the owner posture and in shadow mode too; what bodies of a wrong shape do is refused in
//! parsing already. Their bounds are far beyond any work that a machine can do, and lie where it would end.

use std::collections::HashSet;

use super::{Subject, at, of, shadow};
use crate::bounds::{Facts, Slot, Value, chain, input_text_bytes, number, size_chain, text_chain};
use crate::catalogue::{ClassSignature, DeclaredType, InputKind, KindSet, TypeSet};
use crate::files::SAMPLE_RATES;
use crate::policy::Mode;
use crate::verdict::{Violation, ViolationKind};
use crate::workflow::graph::{NodeIndex, links};
use crate::workflow::link::Link;
use crate::workflow::node::{Input, Node};

/// Entries of a sampling schedule, `steps / denoise` of them (facts K9). ComfyUI's own range of steps ends at 10,000.
const SCHEDULE_MAX: f64 = 1_000_000.0;
/// Pixels of one batch or film in memory, as red, green and blue in 32 bits: 51 GB (facts K10).
const PIXELS_MAX: i128 = 1 << 32;
/// Pixels that a latent stands for: it takes an eighth of their memory or less.
const LATENT_PIXELS_MAX: i128 = PIXELS_MAX * 8;
/// Seconds of sound; in two channels of 192 kHz as large as [`PIXELS_MAX`] (facts K10).
const SECONDS_MAX: f64 = 36_000.0;
/// Bytes of a text that nodes put together (facts K10).
const TEXT_BYTES_MAX: i128 = 16 * 1024 * 1024;
/// Inputs that ComfyUI reads to make the cache keys of all nodes, since for each node it reads those of all its ancestors again (facts K13). It takes 20 to 50 µs for one, with nothing else
/// running; the largest of 566 published workflows has 7,474.
const SIGNATURE_INPUTS_MAX: u64 = 100_000;
/// Full stops in a row in a text of numbers: the pattern that looks for numbers in it takes their square (facts K8).
const STOPS_MAX: usize = 64;
/// Bytes of a text of numbers that comes by a link, where nobody sees its full stops.
pub(super) const LINKED_SIGMAS_BYTES_MAX: i128 = 8192;
/// Kinds of inputs whose value the rules of schedules and memory read. None of them can be judged where nobody knows the number (facts K9, K10).
const NUMBERS_READ: [InputKind; 13] = [
    InputKind::Steps,
    InputKind::Denoise,
    InputKind::Seconds,
    InputKind::SampleRate,
    InputKind::Width,
    InputKind::Height,
    InputKind::Side,
    InputKind::Megapixels,
    InputKind::Factor,
    InputKind::Pad,
    InputKind::Count,
    InputKind::Batch,
    InputKind::Frames,
];

/// ComfyUI's own classes whose text may be longer than each of their inputs.
const GROWING_TEXTS: [&str; 10] = [
    "AddTextPrefix",
    "AddTextSuffix",
    "CaseConverter",
    "RegexExtract",
    "RegexReplace",
    "ReplaceText",
    "StringConcatenate",
    "StringReplace",
    "TextToLowercase",
    "TextToUppercase",
];
/// Inputs whose value ComfyUI sends to pages and keeps in its history as it is (`comfy_extras/nodes_load_3d.py`).
const SHOWN_AS_THEY_ARE: [(&str, &str); 2] = [("Preview3D", "model_file"), ("Preview3D", "camera_info")];

/// Whether ComfyUI does no more with the value than to send it to pages.
pub(super) fn is_only_shown(class: &ClassSignature, input: &str) -> bool {
    class.is_core() && SHOWN_AS_THEY_ARE.contains(&(class.name(), input))
}

pub(super) fn check(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    unknown_numbers(subject, out);
    for (place, node, class) in subject.known() {
        out.extend(shown_value(subject, place, node, class));
        if subject.policy.trusts(class) {
            continue;
        }
        out.extend(schedule(subject, node, class));
        out.extend(sound(subject, node, class));
        out.extend(odd_rate(subject, node, class));
        out.extend(text(subject, place, node, class));
        out.extend(sigmas_text(subject, node, class));
    }
    other_texts(subject, out);
    memory(subject, out);
    signatures(subject, out);
}

/// The largest that a number may be, whole or not; none if nothing is known, or it is no number.
#[expect(clippy::cast_precision_loss, reason = "compared with bounds far below 2^53")]
fn ends(value: Value) -> Option<(f64, f64)> {
    match value {
        Value::Int(value) => Some((value.lo as f64, value.hi as f64)),
        Value::Float(value) => Some((value.lo, value.hi)),
        Value::Bool(_) | Value::Unknown => None,
    }
}

/// Numbers that come by a link and that nobody knows, where a rule here would have to read them: whatever holds for known ones holds for none of these.
fn unknown_numbers(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    let read = KindSet::of(NUMBERS_READ);
    let mut found = Vec::new();
    let mut of_packs = None;
    for (_, node, class) in subject.known() {
        // In a pack's class it is a guess what a number does.
        if !class.is_core() || !class.may_have_any(read) {
            continue;
        }
        for (name, signature) in class.inputs_of(node) {
            let Some(Input::Link(link)) = node.input(name) else { continue };
            let is_read = signature.kind().is_some_and(|kind| NUMBERS_READ.contains(&kind));
            if !is_read || ends(number(&subject.facts, node, name, signature.declared())).is_some() {
                continue;
            }
            // An owner's packs are trusted, with the numbers that they give.
            let trusted =
                subject.owner() && of_packs.get_or_insert_with(|| fed_by_packs(subject)).contains(&link.target);
            if !trusted && !is_told(subject, out, node, name) {
                found.push(number_unbounded(subject, node, name));
            }
        }
    }
    out.extend(found);
}

/// The nodes of classes that are not ComfyUI's own, and all that these lead to. The pictures of a paid service are no work of ComfyUI's either; its texts may say any number.
fn fed_by_packs(subject: &Subject<'_>) -> HashSet<NodeIndex> {
    let facts = &subject.facts;
    let of_a_service = |link: Link| {
        facts.class_at(link.target).is_some_and(ClassSignature::is_paid)
            && facts.slot(link).is_some_and(|slot| slot.type_set.is_within(TypeSet::SHAPED))
    };
    let mut fed: HashSet<NodeIndex> = HashSet::new();
    for (place, node) in facts.workflow.sources_first() {
        let own = facts.class_at(place).is_some_and(ClassSignature::is_core);
        if !own || links(node).any(|link| fed.contains(&link.target) || of_a_service(link)) {
            fed.insert(place);
        }
    }
    fed
}

/// Whether another rule refuses this input already, in this policy's mode too.
fn is_told(subject: &Subject<'_>, out: &[Violation], node: &Node, name: &str) -> bool {
    let refuses = |known: &Violation| subject.policy.mode() == Mode::Enforce || !shadow::relaxes(known);
    out.iter()
        .any(|known| known.node.as_ref() == Some(&node.id) && known.input.as_deref() == Some(name) && refuses(known))
}

fn number_unbounded(subject: &Subject<'_>, node: &Node, name: &str) -> Violation {
    let chain = chain(&subject.facts, node, name);
    let from = chain.as_deref().map(|chain| format!(" ({chain})")).unwrap_or_default();
    let message = format!("nobody knows how large {name} becomes{from}, and too much of it ends a ComfyUI");
    Violation { chain, ..at(node, name, "number_unbounded", ViolationKind::Denied, message) }
}

/// What is known of the node's input of that kind, with its name.
fn of_kind<'c>(
    subject: &Subject<'_>,
    node: &Node,
    class: &'c ClassSignature,
    kind: InputKind,
) -> Option<(&'c str, f64, f64)> {
    let (name, signature) = class.input_of_kind(node, kind)?;
    let (lo, hi) = ends(number(&subject.facts, node, name, signature.declared()))?;
    Some((name, lo, hi))
}

fn over(
    subject: &Subject<'_>,
    node: &Node,
    name: &str,
    code: &'static str,
    what: &str,
    (bound, limit): (f64, f64),
) -> Violation {
    let chain = chain(&subject.facts, node, name);
    let from = chain.as_deref().map(|chain| format!(": {chain}")).unwrap_or_default();
    let message = format!("{what} {bound:.0}, and no more than {limit:.0} leave a ComfyUI running{from}");
    let violation = at(node, name, code, ViolationKind::Denied, message);
    Violation { bound: Some(format!("{bound:.0}")), limit: Some(format!("{limit:.0}")), chain, ..violation }
}

/// ComfyUI makes a schedule of `steps / denoise` entries, one after the other. A denoise of 0 makes none.
fn schedule(subject: &Subject<'_>, node: &Node, class: &ClassSignature) -> Option<Violation> {
    let (name, _, steps) = of_kind(subject, node, class, InputKind::Steps)?;
    if steps > SCHEDULE_MAX {
        return Some(over(subject, node, name, "schedule_too_long", "makes a schedule of", (steps, SCHEDULE_MAX)));
    }
    let (name, lo, hi) = of_kind(subject, node, class, InputKind::Denoise)?;
    if hi <= 0.0 {
        return None;
    }
    // From 0 on, everything above it is possible.
    let entries = if lo > 0.0 { steps.max(0.0) / lo } else { f64::INFINITY };
    let exactly_none = lo <= 0.0 && !matches!(node.input(name), Some(Input::Link(_)));
    (entries > SCHEDULE_MAX && !exactly_none)
        .then(|| over(subject, node, name, "schedule_too_long", "may make a schedule of", (entries, SCHEDULE_MAX)))
}

fn sound(subject: &Subject<'_>, node: &Node, class: &ClassSignature) -> Option<Violation> {
    let (name, _, seconds) = of_kind(subject, node, class, InputKind::Seconds)?;
    (seconds > SECONDS_MAX)
        .then(|| over(subject, node, name, "memory_exceeded", "makes sound for seconds", (seconds, SECONDS_MAX)))
}

/// Between two rates without a common divisor ComfyUI makes a filter as large as their product (`torchaudio.functional.resample`): tens of gigabytes.
fn odd_rate(subject: &Subject<'_>, node: &Node, class: &ClassSignature) -> Option<Violation> {
    let (name, lo, hi) = of_kind(subject, node, class, InputKind::SampleRate)?;
    if lo == hi && SAMPLE_RATES.iter().any(|rate| f64::from(*rate) == lo) {
        return None;
    }
    let message = format!("{name} must be one of the usual rates, such as 44100 or 48000");
    let (bound, limit) = (Some(hi.to_string()), Some(SAMPLE_RATES.map(|rate| rate.to_string()).join(", ")));
    let chain = chain(&subject.facts, node, name);
    Some(Violation { bound, limit, chain, ..at(node, name, "sample_rate_refused", ViolationKind::Denied, message) })
}

fn text(subject: &Subject<'_>, place: NodeIndex, node: &Node, class: &ClassSignature) -> Option<Violation> {
    if !is_growing(class) {
        return None;
    }
    match longest_text(subject, place, TEXT_BYTES_MAX) {
        Some(bytes) => (bytes > TEXT_BYTES_MAX).then(|| text_of(&subject.facts, node, bytes)),
        // Where numbers are capped, the rule of texts says so.
        None if subject.policy.caps.limits_anything() => None,
        // Nor is it known whether anything makes it longer.
        None if subject.owner_of_unknown() => None,
        None => {
            let message = "the length of its text can't be bounded".to_owned();
            Some(of(node, "text_unbounded", ViolationKind::Denied, message))
        }
    }
}

/// Bytes of the node's text. Where the bound is beyond `limit` and the text is known word for word, its own.
pub(super) fn longest_text(subject: &Subject<'_>, place: NodeIndex, limit: i128) -> Option<i128> {
    let bound = subject.facts.text_bytes(place);
    if bound.is_some_and(|bound| bound <= limit) {
        return bound;
    }
    let known = subject.possible_texts().bytes_of(place).and_then(|bytes| i128::try_from(bytes).ok());
    known.or(bound)
}

/// Texts of classes that nobody knows, such as those of packs: each is taken to hold all that goes into it, so that none doubles another for ever.
fn other_texts(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    let facts = &subject.facts;
    for (place, node) in facts.workflow.indexed() {
        let bytes = facts.longest_text(place);
        let told_above = || links(node).any(|link| facts.longest_text(link.target) > TEXT_BYTES_MAX);
        // Those of ComfyUI's own have a rule of their own.
        let growing = facts.class_at(place).is_some_and(is_growing) && facts.text_bytes(place).is_some();
        if bytes > TEXT_BYTES_MAX && !growing && !told_above() {
            out.push(text_of(facts, node, bytes));
        }
    }
}

fn text_of(facts: &Facts<'_>, node: &Node, bytes: i128) -> Violation {
    let message =
        format!("may make a text of {bytes} bytes, and no more than {TEXT_BYTES_MAX} leave a ComfyUI running");
    let (bound, limit) = (Some(bytes.to_string()), Some(TEXT_BYTES_MAX.to_string()));
    Violation {
        bound,
        limit,
        chain: text_chain(facts, node),
        ..of(node, "text_exceeded", ViolationKind::Denied, message)
    }
}

/// Whether the class is one of ComfyUI's own whose texts may be longer than what goes in.
pub(super) fn is_growing(class: &ClassSignature) -> bool {
    // Few classes give texts at all.
    class.gives(TypeSet::TEXTUAL) && class.is_core() && GROWING_TEXTS.contains(&class.name())
}

fn sigmas_text(subject: &Subject<'_>, node: &Node, class: &ClassSignature) -> Option<Violation> {
    let (name, _) = class.input_of_kind(node, InputKind::SigmasText)?;
    let refused = |message: String| Some(at(node, name, "regex_refused", ViolationKind::Denied, message));
    match (node.text(name), node.input(name)) {
        (Some(text), _) if longest_run_of_stops(text) > STOPS_MAX => refused(format!(
            "more than {STOPS_MAX} full stops in a row are no numbers, and looking for some in them takes ComfyUI minutes"
        )),
        (None, Some(Input::Link(_))) => match input_text_bytes(&subject.facts, node, name) {
            Some(bytes) if bytes <= LINKED_SIGMAS_BYTES_MAX => None,
            _ => refused(format!("a text of numbers that comes by a link has at most {LINKED_SIGMAS_BYTES_MAX} bytes")),
        },
        _ => None,
    }
}

fn longest_run_of_stops(text: &str) -> usize {
    text.split(|character| character != '.').map(str::len).max().unwrap_or_default()
}

/// K14: a Python object in the place of a text ends the process, or the history of all. So nothing may come here whose type nobody knows.
fn shown_value(subject: &Subject<'_>, place: NodeIndex, node: &Node, class: &ClassSignature) -> Option<Violation> {
    if subject.policy.trusts(class)
        || !class.is_output_node() && !SHOWN_AS_THEY_ARE.iter().any(|(of, _)| *of == class.name())
    {
        return None;
    }
    for (name, input, signature) in subject.given(place) {
        let (Input::Link(link), Some(signature)) = (input, signature) else { continue };
        let shown = is_only_shown(class, name)
            // A later release may show other texts. Its own folder is no text of the caller's.
            || (class.is_output_node()
                && *signature.declared() == DeclaredType::Text
                && signature.kind() != Some(InputKind::SavePrefix));
        // Nothing is known of a class that is not in the catalogue.
        let fits = || subject.facts.slot(*link).is_some_and(|slot| fits_exactly(slot, signature.declared()));
        if shown && !fits() {
            let message = "ComfyUI shows this value as it is, and ends if it is something else than what is declared: the type of what comes here is not known".to_owned();
            return Some(at(node, name, "type_unknown", ViolationKind::Denied, message));
        }
    }
    None
}

/// Whether every type that may come is one that is declared, and there is at least one.
fn fits_exactly(slot: &Slot<'_>, declared: &DeclaredType) -> bool {
    let fits = |offered: &&str| match declared {
        DeclaredType::Text => *offered == "STRING",
        DeclaredType::Socket(types) => types.iter().any(|name| name == offered && name != "*"),
        DeclaredType::Any => true,
        _ => false,
    };
    !slot.types.is_empty() && slot.types.iter().all(fits)
}

/// Pictures, films, latents and sounds that no memory holds. A policy with caps has found larger ones than its caps already, and cut them.
fn memory(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    let within_caps = out.is_empty();
    let mut told = |facts: &Facts<'_>| {
        let too_large = |slot: &Slot<'_>| {
            let latent = slot.type_set.is_within(TypeSet::LATENT);
            let limit = if latent { LATENT_PIXELS_MAX } else { PIXELS_MAX };
            // A list holds all of its items at once.
            let at_once = |pixels: i128| pixels.saturating_mul(slot.items.max(slot.work));
            slot.shape.map(|shape| (at_once(shape.pixels_total()), limit)).filter(|(pixels, limit)| pixels > limit)
        };
        let worst = |place: NodeIndex| facts.slots_at(place).iter().find_map(too_large);
        for (place, node) in facts.workflow.indexed() {
            // A film or sound of the owner's that nobody has measured counts as endless where caps ask; here it is taken for one that fits.
            let own_file =
                subject.owner() && facts.class_at(place).is_some_and(|class| class.may_have(InputKind::File));
            // Told where it arises.
            let from_above =
                |beyond: &dyn Fn(&Slot<'_>) -> bool| links(node).any(|link| facts.slot(link).is_some_and(beyond));
            if own_file {
                continue;
            }
            let longest = facts.slots_at(place).iter().filter_map(too_long).reduce(f64::max);
            if let Some(seconds) = longest.filter(|_| !from_above(&|slot| too_long(slot).is_some())) {
                out.push(sound_too_long(node, seconds));
            }
            let Some((pixels, limit)) = worst(place) else { continue };
            if from_above(&|slot| too_large(slot).is_some()) {
                continue;
            }
            let message = format!("may make {pixels} pixels at once, and no more than {limit} leave a ComfyUI running");
            let (bound, limit) = (Some(pixels.to_string()), Some(limit.to_string()));
            let chain = size_chain(facts, node);
            out.push(Violation { bound, limit, chain, ..of(node, "memory_exceeded", ViolationKind::Denied, message) });
        }
    };
    let caps = &subject.policy.caps;
    if within_caps || !(caps.limits_sizes() || caps.seconds.is_some()) {
        return told(&subject.facts);
    }
    // What was cut to a cap is looked at uncut: shadow mode lets it through.
    let uncapped = caps.without_limits();
    told(&subject.facts.under(&uncapped));
}

/// Seconds of all sounds in it, if no memory holds them.
#[expect(clippy::cast_precision_loss, reason = "compared with a bound far below 2^53")]
fn too_long(slot: &Slot<'_>) -> Option<f64> {
    let sound = slot.sound?;
    let seconds = sound.seconds * sound.batch.saturating_mul(slot.items).max(1) as f64;
    (seconds > SECONDS_MAX).then_some(seconds)
}

fn sound_too_long(node: &Node, seconds: f64) -> Violation {
    if seconds.is_infinite() {
        let message =
            "nobody knows how long this sound is, and a few bytes may be days of it, which ends a ComfyUI".to_owned();
        return of(node, "sound_unbounded", ViolationKind::Denied, message);
    }
    let message =
        format!("may make {seconds:.0} seconds of sound, and no more than {SECONDS_MAX} leave a ComfyUI running");
    let (bound, limit) = (Some(format!("{seconds:.0}")), Some(SECONDS_MAX.to_string()));
    Violation { bound, limit, ..of(node, "memory_exceeded", ViolationKind::Denied, message) }
}

/// ComfyUI makes the cache key of each node of the inputs of all its ancestors (`comfy_execution/caching.py` `get_node_signature`), before the first node runs.
fn signatures(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    if subject.parsed.workflow.signature_inputs_at_most() <= SIGNATURE_INPUTS_MAX {
        return;
    }
    let inputs = subject.parsed.workflow.signature_inputs();
    if inputs > SIGNATURE_INPUTS_MAX {
        let message = format!(
            "ComfyUI would read {inputs} inputs to make the cache keys of this workflow, and no more than {SIGNATURE_INPUTS_MAX} are taken"
        );
        let (bound, limit) = (Some(inputs.to_string()), Some(SIGNATURE_INPUTS_MAX.to_string()));
        let violation = super::whole("too_densely_linked", ViolationKind::Denied, message);
        out.push(Violation { bound, limit, ..violation });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_in_a_row_are_counted() {
        for (text, run) in [("", 0), ("1, 0.5", 1), ("..1...", 3), ("....", 4), ("．．.", 1)] {
            assert_eq!(longest_run_of_stops(text), run, "{text:?}");
        }
    }
}
