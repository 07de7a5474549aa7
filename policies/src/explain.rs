//! A readable account of one decision: what is known of every node, what it costs, what becomes of the workflow and why.
//!
//! For people who write workflows and policies; nothing here decides. The verdict in it is that of [`decide`].

use std::fmt::{self, Write};

use serde_json::{Map, Value, json};

use crate::bounds::{Facts, Sampling, Shape, Slot, Value as Number, sampling};
use crate::catalogue::Catalogue;
use crate::files::FileFacts;
use crate::policy::Policy;
use crate::submission::Parsed;
use crate::suggest;
use crate::verdict::{Cost, Verdict, Violation};
use crate::workflow::graph::NodeIndex;
use crate::workflow::link::Link;
use crate::workflow::node::{Node, NodeClass, NodeId};
use crate::{cost, decide, running_outputs};

/// From here on a bound says no more than that there is none.
const ENDLESS: i128 = 1_000_000_000_000_000;
/// Characters of a title in the table.
const TITLE_CHARS_MAX: usize = 40;

/// Why a verdict is as it is.
#[derive(Debug, Clone)]
pub struct Explanation {
    verdict: Verdict,
    cost: Cost,
    nodes: Vec<NodeAccount>,
    mixed: Vec<ReleaseNote>,
}

/// What is known of one node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeAccount {
    /// The node.
    pub node: NodeId,
    /// Its class.
    pub class: NodeClass,
    /// The title that its author gave it.
    pub title: Option<String>,
    /// Whether an output that runs depends on it.
    pub runs: bool,
    /// Whether the catalogue has its class; nothing more is known of one that it lacks.
    pub known: bool,
    /// What it samples, at most. `Some(None)`: it is a sampler, and nobody knows how much.
    pub sampling: Option<Option<SamplingAccount>>,
    /// The family of the model that it samples with.
    pub family: Option<String>,
    /// Units of cost.
    pub cost: f64,
    /// What is known of its outputs; those of which nothing is known are left out.
    pub outputs: Vec<OutputAccount>,
}

/// How much a sampler works: the product is its number of model calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SamplingAccount {
    /// Steps of one run.
    pub steps: i128,
    /// Model calls of one step.
    pub calls: i128,
    /// How often the node runs, for a list.
    pub runs: i128,
}

/// A node of a workflow that no release of ComfyUI has as a whole, and the releases that have this one. Where no installation is known each is judged as one of its own declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseNote {
    /// Its id.
    pub node: NodeId,
    /// Its class.
    pub class: NodeClass,
    /// Such as `0.8.0` or `0.33.0 to 0.38.1`.
    pub releases: String,
}

/// What is known of one output. Each pair is the smallest and the largest that may occur.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputAccount {
    /// Its slot.
    pub slot: usize,
    /// Its declared type.
    pub type_name: String,
    /// Pixels, of the picture that a latent stands for too.
    pub width: Option<(i128, i128)>,
    /// Pixels.
    pub height: Option<(i128, i128)>,
    /// Images or latents at once.
    pub batch: Option<(i128, i128)>,
    /// Frames of each.
    pub frames: Option<(i128, i128)>,
    /// A number or boolean, as text.
    pub value: Option<(String, String)>,
    /// Steps of a schedule, at most.
    pub steps: Option<i128>,
    /// Seconds of sound, at most.
    pub seconds: Option<f64>,
    /// Items of a list, at most; 1 for what is none.
    pub items: i128,
}

/// Decides, and tells how that came about.
pub fn explain(parsed: &Parsed, policy: &Policy, catalogue: &Catalogue, files: &FileFacts) -> Explanation {
    let verdict = decide(parsed, policy, catalogue, files);
    // What the policy says of classes of packs holds for the table as it does for the verdict.
    let own = policy.annotated(catalogue, parsed.classes().map(NodeClass::as_str));
    let catalogue = own.as_ref().unwrap_or(catalogue);
    let facts = Facts::of(&parsed.workflow, policy, catalogue, files);
    let running = parsed.workflow.reaching(&running_outputs(parsed, &facts));
    let costs = cost::of_nodes(&facts, policy.costs());
    let nodes = parsed.workflow.indexed().map(|(place, node)| {
        let cost = costs.iter().find(|cost| cost.place == place);
        NodeAccount {
            runs: running.contains(&place),
            cost: cost.map_or(0.0, |cost| cost.units),
            family: cost.and_then(|cost| Some(cost.family?.to_owned())),
            ..account(&facts, place, node)
        }
    });
    let mixed = facts.resolved.mixed.iter().filter_map(|of| {
        let node = parsed.workflow.node(of.place)?;
        let (id, class) = (node.id.detached(), node.class.detached());
        Some(ReleaseNote { node: id, class, releases: of.releases.shown() })
    });
    let mixed = mixed.collect();
    Explanation { cost: cost::cost(&facts, policy.costs()), nodes: nodes.collect(), mixed, verdict }
}

fn account(facts: &Facts<'_>, place: NodeIndex, node: &Node) -> NodeAccount {
    let class = facts.class_at(place);
    let slots = 0..class.map_or(0, |class| class.outputs().len());
    let outputs = slots.filter_map(|slot| {
        let type_name = class?.outputs().get(slot)?.type_name().to_owned();
        output(slot, type_name, facts.slot(Link { target: place, slot })?)
    });
    NodeAccount {
        node: node.id.clone(),
        class: node.class.clone(),
        title: node.title.as_ref().map(|title| title.chars().take(TITLE_CHARS_MAX).collect()),
        runs: false,
        known: class.is_some(),
        sampling: class.and_then(|class| {
            let of = |known: Sampling| SamplingAccount { steps: known.steps, calls: known.calls, runs: known.runs };
            Some(sampling(facts, node, class)?.ok().map(of))
        }),
        family: None,
        cost: 0.0,
        outputs: outputs.collect(),
    }
}

fn output(slot: usize, type_name: String, known: &Slot<'_>) -> Option<OutputAccount> {
    let size = |of: fn(&Shape) -> (i128, i128)| known.shape.as_ref().map(of);
    let value = match known.value {
        Number::Int(value) => Some((value.lo.to_string(), value.hi.to_string())),
        Number::Float(value) => Some((value.lo.to_string(), value.hi.to_string())),
        Number::Bool(Some(value)) => Some((value.to_string(), value.to_string())),
        Number::Bool(None) | Number::Unknown => None,
    };
    let out = OutputAccount {
        slot,
        type_name,
        width: size(|shape| (shape.width.lo, shape.width.hi)),
        height: size(|shape| (shape.height.lo, shape.height.hi)),
        batch: size(|shape| (shape.batch.lo, shape.batch.hi)),
        frames: size(|shape| (shape.frames.lo, shape.frames.hi)),
        value,
        steps: known.sigmas,
        seconds: known.sound.map(|sound| sound.seconds),
        items: known.items,
    };
    let bounded = out.width.is_some() || out.value.is_some() || out.steps.is_some() || out.seconds.is_some();
    (bounded || out.items != 1).then_some(out)
}

impl Explanation {
    /// The verdict.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// The cost of the whole, whether it may run or not.
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// The nodes, in the caller's order.
    pub fn nodes(&self) -> &[NodeAccount] {
        &self.nodes
    }

    /// What stands against the workflow, or against the part of it that does not run.
    fn violations(&self) -> Vec<&Violation> {
        match &self.verdict {
            Verdict::Deny(violations) => violations.iter().collect(),
            Verdict::Allow(approved) => approved.pruned().into_iter().flatten().collect(),
        }
    }

    /// What a policy in shadow mode let pass.
    fn shadowed(&self) -> &[Violation] {
        match &self.verdict {
            Verdict::Deny(_) => &[],
            Verdict::Allow(approved) => approved.shadowed(),
        }
    }

    /// For programs: `{verdict, cost, nodes: [{node, class, title, runs, known, sampling, family, cost, outputs}], mixed_releases: [{node, class, releases}], violations, shadowed, dropped, replaced,
    /// lines}`.
    pub fn to_json(&self) -> Value {
        let (dropped, replaced) = match &self.verdict {
            Verdict::Allow(approved) => (
                approved.dropped().iter().map(|one| json!({"node": one.node, "input": one.input})).collect(),
                approved
                    .replaced()
                    .iter()
                    .map(|one| json!({"node": one.node, "input": one.input, "from": one.from, "to": one.to}))
                    .collect(),
            ),
            Verdict::Deny(_) => (Vec::new(), Vec::new()),
        };
        json!({
            "verdict": self.verdict_name(),
            "cost": self.cost.units(),
            "nodes": self.nodes.iter().map(NodeAccount::to_json).collect::<Vec<_>>(),
            "mixed_releases": self.mixed.iter().map(|one| json!({
                "node": one.node, "class": one.class, "releases": one.releases,
            })).collect::<Vec<_>>(),
            "violations": self.violations().iter().map(|one| one.to_json()).collect::<Vec<_>>(),
            "shadowed": self.shadowed().iter().map(Violation::to_json).collect::<Vec<_>>(),
            "dropped": dropped,
            "replaced": replaced,
            "lines": suggest::lines(self.against()),
        })
    }

    /// What stands against it, and what would in another mode.
    fn against(&self) -> impl Iterator<Item = &Violation> {
        self.violations().into_iter().chain(self.shadowed())
    }

    fn verdict_name(&self) -> &'static str {
        match self.verdict {
            Verdict::Allow(_) => "allow",
            Verdict::Deny(_) => "deny",
        }
    }

    fn write_table(&self, f: &mut String) -> fmt::Result {
        let rows: Vec<[String; 4]> = self.nodes.iter().map(NodeAccount::row).collect();
        let heads = ["node", "class", "cost", "bounds"];
        let widths: Vec<usize> = heads
            .iter()
            .enumerate()
            .map(|(column, head)| {
                let cells = rows.iter().filter_map(|row| Some(row.get(column)?.chars().count()));
                cells.chain([head.len()]).max().unwrap_or(0)
            })
            .collect();
        let line = |f: &mut String, cells: &[&str]| {
            let padded: Vec<String> =
                cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            writeln!(f, "{}", padded.join("  ").trim_end())
        };
        line(f, &heads)?;
        for row in &rows {
            line(f, &row.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        Ok(())
    }

    fn write_changes(&self, f: &mut String) -> fmt::Result {
        let Verdict::Allow(approved) = &self.verdict else { return Ok(()) };
        if !(approved.dropped().is_empty() && approved.replaced().is_empty()) {
            writeln!(f, "\nSent otherwise than written:")?;
        }
        for dropped in approved.dropped() {
            writeln!(f, "  {dropped}")?;
        }
        for replaced in approved.replaced() {
            writeln!(
                f,
                "  {}: `{}` is `{}` instead of `{}`",
                replaced.node, replaced.input, replaced.to, replaced.from
            )?;
        }
        if !approved.save_targets().is_empty() {
            writeln!(f, "\nSaved, below the attempt's own folder:")?;
        }
        for target in approved.save_targets() {
            let folder = if target.folder.is_empty() { String::new() } else { format!("{}/", target.folder) };
            writeln!(f, "  {}: `{}` {folder}{}…", target.node, target.input, target.base_name)?;
        }
        Ok(())
    }
}

impl fmt::Display for Explanation {
    /// For people: verdict and cost, a table of the nodes, what is changed, and what stands against it with the lines that would allow it. Names are the workflow's author's: nothing in them
    /// reaches a terminal as a command.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.write(&mut text)?;
        f.write_str(&text.replace(|c: char| c.is_control() && c != '\n', " "))
    }
}

impl Explanation {
    fn write(&self, f: &mut String) -> fmt::Result {
        let violations = self.violations();
        let word = match self.verdict {
            Verdict::Allow(_) if !self.shadowed().is_empty() => "allowed, by shadow mode only",
            Verdict::Allow(_) if !violations.is_empty() => "allowed, but for nodes that are invalid",
            Verdict::Allow(_) => "allowed",
            Verdict::Deny(_) => "refused",
        };
        writeln!(f, "{word}; cost {}\n", units(self.cost.units()))?;
        self.write_table(f)?;
        if !self.mixed.is_empty() {
            let each = "each of these is judged as a release declares it that has it so";
            writeln!(f, "\nNo release of ComfyUI that is known here has all nodes as they are used; {each}:")?;
            self.mixed.iter().try_for_each(|one| writeln!(f, "  {} ({}): {}", one.node, one.class, one.releases))?;
        }
        self.write_changes(f)?;
        if !violations.is_empty() {
            writeln!(f, "\nAgainst it:")?;
            violations.iter().try_for_each(|violation| write_violation(f, violation))?;
        }
        if !self.shadowed().is_empty() {
            writeln!(f, "\nAgainst it, if the policy were not in shadow mode:")?;
            self.shadowed().iter().try_for_each(|violation| write_violation(f, violation))?;
        }
        let lines = suggest::lines(self.against());
        if !lines.is_empty() {
            writeln!(f, "\nLines of a policy that would allow what a policy can:\n")?;
            lines.lines().try_for_each(|line| writeln!(f, "{}", format!("    {line}").trim_end()))?;
        }
        Ok(())
    }
}

fn write_violation(f: &mut String, violation: &Violation) -> fmt::Result {
    writeln!(f, "  {}", violation.pointer())?;
    let class = violation.class.as_ref().map_or(String::new(), |class| format!("{class}: "));
    writeln!(f, "    {class}{} [{}]", violation.because(), violation.code)?;
    match suggest::suggestion(violation) {
        Some(found) => writeln!(f, "    allowed by {found}"),
        None => match suggest::remark(violation.code) {
            Some(remark) => writeln!(f, "    no single line allows it: {remark}"),
            None => writeln!(f, "    no policy allows it"),
        },
    }
}

impl NodeAccount {
    /// For programs.
    fn to_json(&self) -> Value {
        json!({
            "node": self.node, "class": self.class, "title": self.title, "runs": self.runs, "known": self.known,
            "sampling": self.sampling.flatten().map(|known| json!({
                "steps": number(known.steps), "calls": number(known.calls), "runs": number(known.runs),
            })),
            "family": self.family, "cost": self.cost,
            "outputs": self.outputs.iter().map(OutputAccount::to_json).collect::<Vec<_>>(),
        })
    }

    fn row(&self) -> [String; 4] {
        let mut parts = Vec::new();
        if !self.known {
            parts.push("not in the catalogue".to_owned());
        }
        if !self.runs && self.known {
            parts.push("does not run".to_owned());
        }
        match self.sampling {
            Some(Some(known)) => parts.push(known.text()),
            Some(None) => parts.push("nobody knows how many steps".to_owned()),
            None => {}
        }
        parts.extend(self.family.clone());
        parts.extend(self.outputs.iter().map(OutputAccount::text));
        let class = match &self.title {
            Some(title) if title != self.class.as_str() => format!("{} ({title})", self.class),
            _ => self.class.to_string(),
        };
        let cost = if self.cost > 0.0 { units(self.cost) } else { String::new() };
        [self.node.to_string(), class.replace(char::is_control, " "), cost, parts.join("; ")]
    }
}

impl SamplingAccount {
    fn text(self) -> String {
        let mut text = format!("{} steps", bound(self.steps));
        if self.calls != 1 {
            text.push_str(&format!(" of {} model calls", bound(self.calls)));
        }
        if self.runs != 1 {
            text.push_str(&format!(", {} times", bound(self.runs)));
        }
        text
    }
}

impl OutputAccount {
    fn to_json(&self) -> Value {
        let mut out = Map::new();
        out.insert("slot".to_owned(), json!(self.slot));
        out.insert("type".to_owned(), json!(self.type_name));
        for (name, pair) in
            [("width", self.width), ("height", self.height), ("batch", self.batch), ("frames", self.frames)]
        {
            if let Some((lo, hi)) = pair {
                out.insert(name.to_owned(), json!([number(lo), number(hi)]));
            }
        }
        if let Some(value) = &self.value {
            out.insert("value".to_owned(), json!([value.0, value.1]));
        }
        if let Some(steps) = self.steps {
            out.insert("steps".to_owned(), number(steps));
        }
        if let Some(seconds) = self.seconds {
            out.insert("seconds".to_owned(), json!(seconds));
        }
        if self.items != 1 {
            out.insert("items".to_owned(), number(self.items));
        }
        Value::Object(out)
    }

    fn text(&self) -> String {
        let mut parts = Vec::new();
        if let (Some(width), Some(height)) = (self.width, self.height) {
            parts.push(format!("{} × {}", range(width), range(height)));
        }
        parts.extend(self.batch.filter(|batch| *batch != (1, 1)).map(|batch| format!("batch {}", range(batch))));
        parts.extend(self.frames.filter(|frames| *frames != (1, 1)).map(|frames| format!("{} frames", range(frames))));
        parts.extend(self.value.as_ref().map(|(lo, hi)| if lo == hi { lo.clone() } else { format!("{lo} to {hi}") }));
        parts.extend(self.steps.map(|steps| format!("{} steps", bound(steps))));
        parts.extend(self.seconds.map(|seconds| format!("{seconds:.1} s")));
        parts.extend((self.items != 1).then(|| format!("{} items", bound(self.items))));
        format!("{} {}", self.type_name, parts.join(", "))
    }
}

/// JSON readers know integers up to 2^53; beyond, a bound says "endless" anyway.
fn number(bound: i128) -> Value {
    i64::try_from(bound.clamp(-ENDLESS, ENDLESS)).map_or(Value::Null, |bound| json!(bound))
}

fn bound(value: i128) -> String {
    if value >= ENDLESS { "endless".to_owned() } else { value.to_string() }
}

fn range((lo, hi): (i128, i128)) -> String {
    if lo == hi { bound(lo) } else { format!("{} to {}", bound(lo), bound(hi)) }
}

fn units(cost: f64) -> String {
    if cost > 0.0 && cost < 0.1 { "< 0.1".to_owned() } else { format!("{cost:.1}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    const BODY: &str = r#"{"prompt": {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd_xl.safetensors"}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "x"}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 768, "batch_size": 2}},
        "9": {"class_type": "PrimitiveInt", "inputs": {"value": 40}, "_meta": {"title": "Steps"}},
        "4": {"class_type": "KSampler", "inputs": {"model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0], "seed": 1,
            "steps": ["9", 0], "cfg": 7, "sampler_name": "euler", "scheduler": "karras", "denoise": 1}},
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "a/x"}}}}"#;

    fn explained(policy: &str) -> Explanation {
        let policy = Policy::from_toml(policy).unwrap();
        explain(&parse(BODY.as_bytes()).unwrap(), &policy, Catalogue::builtin(), &FileFacts::none())
    }

    #[test]
    fn an_account_tells_sizes_calls_family_and_cost_of_each_node() {
        let explained = explained("name = \"p\"\nclasses.allow = [\"*\"]\ncaps.vae_scale = 8");
        let text = explained.to_string();
        assert!(text.starts_with("allowed; cost "), "{text}");
        for wanted in
            ["40 steps; sdxl", "LATENT 512 × 768, batch 2", "PrimitiveInt (Steps)", "INT 40", "`filename_prefix` a/x"]
        {
            assert!(text.contains(wanted), "`{wanted}` is missing:\n{text}");
        }
        let sum: f64 = explained.nodes().iter().map(|node| node.cost).sum();
        assert!((sum - explained.cost().units()).abs() < 1e-6);
        let Verdict::Allow(approved) = explained.verdict() else { panic!("{text}") };
        assert_eq!(approved.cost(), explained.cost());
        assert_eq!(explained.to_json()["nodes"][2]["outputs"][0]["height"], json!([768, 768]));
    }

    #[test]
    fn a_refusal_is_told_with_its_chain_and_the_lines_that_would_allow_it() {
        let text = explained("name = \"p\"\nclasses.allow = [\"*\"]\nclasses.deny = [\"SaveImage\"]\ncaps.steps = 30")
            .to_string();
        assert!(text.starts_with("refused; cost "), "{text}");
        for wanted in [
            "/prompt/4/inputs/steps",
            "steps ≤ 40, and 30 is allowed: linked from 9 (PrimitiveInt.value)",
            "allowed by caps.steps: at least 40",
            "    [caps]\n    steps = 40\n",
            "# take out of `deny`: what matches \"SaveImage\"",
        ] {
            assert!(text.contains(wanted), "`{wanted}` is missing:\n{text}");
        }
    }

    #[test]
    fn what_shadow_mode_lets_pass_is_told_with_the_lines_that_would_allow_it() {
        let explained = explained("name = \"p\"\nmode = \"shadow\"\nclasses.allow = [\"*\"]\ncaps.steps = 30");
        let text = explained.to_string();
        assert!(text.starts_with("allowed, by shadow mode only; cost "), "{text}");
        for wanted in
            ["if the policy were not in shadow mode:", "steps ≤ 40, and 30 is allowed", "    [caps]\n    steps = 40\n"]
        {
            assert!(text.contains(wanted), "`{wanted}` is missing:\n{text}");
        }
        let account = explained.to_json();
        assert_eq!((&account["violations"], &account["shadowed"][0]["code"]), (&json!([]), &json!("cap_exceeded")));
    }

    #[test]
    fn what_the_policy_says_of_a_packs_class_is_in_the_table() {
        let catalogue = br#"{"Pack": {"input": {"required": {"n": ["INT", {"min": 0, "max": 99}]}}, "input_order": {"required": ["n"]},
            "output": ["IMAGE"], "output_is_list": [false], "output_name": ["IMAGE"], "name": "Pack", "display_name": "Pack",
            "description": "", "python_module": "custom_nodes.pack", "category": "", "output_node": true}}"#;
        let catalogue = Catalogue::from_object_info(catalogue).unwrap();
        let parsed = parse(br#"{"prompt": {"1": {"class_type": "Pack", "inputs": {"n": 7}}}}"#).unwrap();
        let text = |annotations: &str| {
            let policy = format!("name = \"p\"\nclasses.allow = [\"*\"]\n{annotations}");
            let policy = Policy::from_toml(&policy).unwrap();
            explain(&parsed, &policy, &catalogue, &FileFacts::none()).to_string()
        };
        let made = "[annotations.Pack]\ninputs = { n = \"width\" }\nsizes = { made = { width = \"n\", height = 5 } }\n";
        assert!(text(made).contains("IMAGE 7 × 5"), "{}", text(made));
        assert!(!text("").contains("7 × 5"), "{}", text(""));
    }
}
