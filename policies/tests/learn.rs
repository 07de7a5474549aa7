//! Learning from real workflows: the document accepts what it was made of, is the same in any order, and its cost and account hold together on every workflow.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails panics, in its helper functions too"
)]
#![allow(clippy::disallowed_methods, reason = "tests read their cases; the engine itself stays pure")]
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use comfygate_policy::learn::{LearnOptions, Learned, Sample, learn};
use comfygate_policy::{
    Catalogue, FileFact, FileFacts, Parsed, Policy, VIOLATIONS_MAX, Verdict, decide, explain, parse, suggest,
    suggestion,
};

/// Workflows below a directory, parsed; what does not parse is of no interest here.
fn samples(directory: &Path) -> Vec<Sample> {
    let mut out = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "json") {
                out.extend(sample(&path));
            }
        }
    }
    out.sort_by(|a, b| a.name.cmp(&b.name));
    out
}

fn sample(path: &Path) -> Option<Sample> {
    let body = [b"{\"prompt\":".to_vec(), std::fs::read(path).unwrap(), b"}".to_vec()].concat();
    let parsed = parse(&body).ok()?;
    let files = uploads(&parsed);
    Some(Sample { name: path.display().to_string(), parsed, files })
}

/// Every file that is named, as a picture of 1024 × 768.
fn uploads(parsed: &Parsed) -> FileFacts {
    let mut facts = FileFacts::none();
    for reference in parsed.file_references(Catalogue::builtin()) {
        let canonical_name = reference.name.clone();
        let fact = FileFact { canonical_name, width: 1024, height: 768, frames: 1, seconds: Some(10) };
        facts.insert(reference.name, reference.directory, fact);
    }
    facts
}

/// The workflows that ship, and those that some machines have beside the repository.
fn all() -> Vec<Sample> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = samples(&here.join("tests/corpus"));
    assert!(all.len() >= 10, "only {} workflows ship", all.len());
    all.extend(samples(&here.join("../../shared/workflows")));
    all
}

fn learned(samples: &[Sample], options: &LearnOptions) -> Learned {
    learn(samples, Catalogue::builtin(), options).unwrap()
}

/// Whole: what runs without some of its outputs is left out of what is learned.
fn accepts(policy: &Policy, sample: &Sample) -> bool {
    let verdict = decide(&sample.parsed, policy, Catalogue::builtin(), &sample.files);
    matches!(verdict, Verdict::Allow(approved) if approved.pruned().is_none())
}

/// Whether all of its classes are known and none is paid for: nothing is installed here, and nobody pays.
fn is_learnable(sample: &Sample) -> bool {
    let free = |class: &str| Catalogue::builtin().class(class).is_some_and(|class| !class.is_paid());
    sample.parsed.classes().all(|class| free(class.as_str()))
}

#[test]
fn a_document_accepts_all_that_it_was_learned_from_whatever_the_options() {
    let samples = all();
    for (headroom, caps) in [(1.0, true), (1.25, true), (1.0, false)] {
        let options = LearnOptions { headroom, caps, ..LearnOptions::default() };
        let found = learned(&samples, &options);
        let policy = Policy::from_toml(&found.document).unwrap_or_else(|faults| panic!("{faults}\n{}", found.document));
        let left: BTreeSet<&str> = found.left_out.iter().map(|left| left.name.as_str()).collect();
        for sample in &samples {
            assert_eq!(accepts(&policy, sample), !left.contains(sample.name.as_str()), "{}", sample.name);
        }
        for left in &found.left_out {
            assert!(!left.violations.is_empty(), "{}: left out without a reason", left.name);
        }
        if std::env::var_os("LEARN_VERBOSE").is_some() {
            for left in &found.left_out {
                let codes: BTreeSet<&str> = left.violations.iter().map(|violation| violation.code).collect();
                let first = left.violations.first().map(ToString::to_string).unwrap_or_default();
                println!("  {}: {codes:?} {first}", left.name);
            }
        }
        println!("headroom {headroom}, caps {caps}: {} of {}, {} left out", found.samples, samples.len(), left.len());
        let learnable: Vec<&Sample> = samples.iter().filter(|sample| is_learnable(sample)).collect();
        let lost = learnable.iter().filter(|sample| left.contains(sample.name.as_str())).count();
        assert!(lost * 20 <= learnable.len(), "{lost} of {} that any policy could allow", learnable.len());
    }
}

#[test]
fn the_same_workflows_in_another_order_give_the_same_document() {
    let mut samples = all();
    let first = learned(&samples, &LearnOptions::default()).document;
    samples.reverse();
    let middle = samples.len() / 3;
    samples.rotate_left(middle);
    assert_eq!(learned(&samples, &LearnOptions::default()).document, first);
}

#[test]
fn an_account_agrees_with_the_verdict_and_its_costs_add_up() {
    let policy = Policy::builtin("default").unwrap();
    for sample in all() {
        let account = explain(&sample.parsed, &policy, Catalogue::builtin(), &sample.files);
        let whole = matches!(account.verdict(), Verdict::Allow(approved) if approved.pruned().is_none());
        assert_eq!(whole, accepts(&policy, &sample), "{}", sample.name);
        let (sum, cost) = (account.nodes().iter().map(|node| node.cost).sum::<f64>(), account.cost().units());
        assert!(
            cost.is_finite() && cost >= 0.0 && (sum - cost).abs() <= 1e-9 * cost.max(1.0),
            "{}: {sum} {cost}",
            sample.name
        );
        assert!(!account.to_string().is_empty() && account.to_json().is_object());
    }
}

/// Applied until nothing is suggested any more, suggestions leave only what no document allows.
#[test]
fn suggested_lines_allow_what_a_policy_can_allow() {
    let (mut allowed, mut hopeless) = (0, 0);
    for sample in all() {
        let nothing = "name = \"x\"\n";
        let refused = |text: &str| {
            let policy = Policy::from_toml(text).unwrap_or_else(|faults| panic!("{}: {faults}\n{text}", sample.name));
            match decide(&sample.parsed, &policy, Catalogue::builtin(), &sample.files) {
                Verdict::Allow(_) => Vec::new(),
                Verdict::Deny(violations) => violations.iter().cloned().collect(),
            }
        };
        let mut told = refused(nothing);
        for _ in 0..8 {
            let before = told.len();
            let text = format!("{nothing}{}", suggest::lines(&told));
            let rest = refused(&text);
            if rest.is_empty() {
                told = rest;
                break;
            }
            told.extend(rest);
            if told.len() == before || told.len() > VIOLATIONS_MAX {
                break;
            }
        }
        if told.is_empty() {
            allowed += 1;
        } else {
            hopeless += 1;
            assert!(told.iter().any(|violation| suggestion(violation).is_none()), "{}", sample.name);
        }
    }
    println!("{allowed} allowed by what was suggested, {hopeless} by nothing");
    assert!(allowed >= 10);
}

/// Which part of a collection is learned from depends on what the workflows say, neither on their names nor on their order.
fn parted(mut samples: Vec<Sample>, tenths: usize) -> (Vec<Sample>, Vec<Sample>) {
    samples.sort_by_cached_key(|sample| sample.parsed.digest());
    samples.dedup_by_key(|sample| sample.parsed.digest());
    let rest = samples.split_off(samples.len() * tenths / 10);
    (samples, rest)
}

/// How well a document fits what it was not learned from, and that every refusal of it is by a list or a cap that more samples would have widened.
#[test]
fn what_is_learned_from_seven_tenths_judges_the_rest_by_its_lists_and_caps() {
    let (known, rest) = parted(all(), 7);
    let options = LearnOptions::default();
    let found = learned(&known, &options);
    let policy = Policy::from_toml(&found.document).unwrap();
    // What could not be learned by itself is no fault of the document's.
    let hopeless = learned(&rest, &options);
    let hopeless: BTreeSet<&str> = hopeless.left_out.iter().map(|left| left.name.as_str()).collect();
    let (mut accepted, mut judged, mut rules) = (0, 0, BTreeMap::<&str, usize>::new());
    let widened = [
        "cap_exceeded",
        "class_not_allowed",
        "cost_exceeded",
        "denoise_too_small",
        "model_not_allowed",
        "sampler_refused",
        "scheduler_refused",
        "size_exceeded",
        "steps_total_exceeded",
        "too_many_nodes",
        "too_many_outputs",
    ];
    for sample in rest.iter().filter(|sample| !hopeless.contains(sample.name.as_str())) {
        judged += 1;
        match decide(&sample.parsed, &policy, Catalogue::builtin(), &sample.files) {
            Verdict::Allow(_) => accepted += 1,
            Verdict::Deny(violations) => {
                let codes: BTreeSet<&str> = violations.iter().map(|violation| violation.code).collect();
                for code in codes {
                    assert!(widened.contains(&code), "{}: {code}: {}", sample.name, violations.to_json());
                    *rules.entry(code).or_default() += 1;
                }
            }
        }
    }
    println!(
        "learned from {} of {}, accepts {accepted} of the {judged} others that can be learned; refused by {rules:?}",
        found.samples,
        known.len()
    );
    assert!(judged > 0 && accepted + rules.values().sum::<usize>() >= judged);
}
