//! The bodies that the engine is measured by: real workflows by size, and 2 MiB of everything that a caller might hope is expensive.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use comfygate_policy::{
    Catalogue, Directory, FileFact, FileFacts, OutputScope, PROMPT_BYTES_MAX, Policy, Verdict, decide, parse,
};

/// A body with the name under which it is told.
pub struct Case {
    pub name: String,
    pub body: Vec<u8>,
    /// The files that it names, as the gateway would know them.
    pub files: FileFacts,
}

/// Bytes that the worst cases stay below.
const WORST_BYTES: usize = PROMPT_BYTES_MAX - 64;

/// What is measured: parse, look for files, decide, and serialise for one attempt. Returns what keeps it from being optimised away.
#[inline(never)]
pub fn inspect(body: &[u8], policy: &Policy, catalogue: &Catalogue, files: &FileFacts, scope: &OutputScope) -> usize {
    let Ok(parsed) = parse(body) else { return 0 };
    let references = parsed.file_references(catalogue).len();
    match decide(&parsed, policy, catalogue, files) {
        Verdict::Allow(approved) => approved.upstream_body(scope).len() + references,
        Verdict::Deny(violations) => violations.len() + references,
    }
}

/// What it is compared with.
#[inline(never)]
pub fn read_with_serde_json(body: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(body).is_ok_and(|value| value.is_object())
}

/// The attempt that bodies are serialised for.
pub fn scope() -> OutputScope {
    OutputScope::new("t/0123456789abcdef/0f8fad5b-d9cb-469f-a165-70867728950e-1", "prompt", "client", "salt").unwrap()
}

/// Every case, small to large, real to malicious.
pub fn all() -> Vec<Case> {
    let mut out = real();
    out.extend(worst().into_iter().map(|(name, prompt)| case(name.to_owned(), prompt.as_bytes())));
    out.push(page_workflow());
    out
}

fn case(name: String, prompt: &[u8]) -> Case {
    let body = [b"{\"prompt\":", prompt, b"}"].concat();
    let files = files(&body);
    Case { name, body, files }
}

/// Every file named is a picture of 1024 × 768.
fn files(body: &[u8]) -> FileFacts {
    let mut facts = FileFacts::none();
    let Ok(parsed) = parse(body) else { return facts };
    for reference in parsed.file_references(Catalogue::builtin()) {
        let canonical_name = reference.name.clone();
        facts.insert(
            reference.name,
            Directory::Input,
            FileFact { canonical_name, width: 1024, height: 768, frames: 1, seconds: Some(10) },
        );
    }
    facts
}

fn json_files(dir: &Path, out: &mut Vec<(u64, PathBuf)>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            json_files(&path, out);
        } else if path.extension().is_some_and(|ext| ext == "json") && !path.ends_with("index.json") {
            out.push((entry.metadata().unwrap().len(), path));
        }
    }
}

/// The smallest, the median and the largest workflow of the shipped corpus, and of a larger collection where one lies beside the repository.
fn real() -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut out = Vec::new();
    for (which, dir) in [("shipped", root.join("tests/corpus")), ("collection", root.join("../../shared/workflows"))] {
        let mut found = Vec::new();
        json_files(&dir, &mut found);
        found.sort();
        let Some(last) = found.len().checked_sub(1) else { continue };
        for (size, place) in [("smallest", 0), ("median", last / 2), ("largest", last)] {
            out.push(case(format!("{which}, {size}"), &std::fs::read(&found[place].1).unwrap()));
        }
    }
    out
}

/// Nodes `0..count`, each by `node`, joined while they fit.
fn graph(count: usize, node: impl Fn(usize) -> String) -> String {
    let mut out = String::from("{");
    for place in 0..count {
        let next = node(place);
        if out.len() + next.len() + 2 > WORST_BYTES {
            break;
        }
        if place > 0 {
            out.push(',');
        }
        out.push_str(&next);
    }
    out.push('}');
    out
}

fn node(id: usize, class: &str, inputs: &str) -> String {
    format!(r#""{id}":{{"class_type":"{class}","inputs":{{{inputs}}}}}"#)
}

/// Chains are as long as they may be.
const CHAIN: usize = 200;
/// Nodes that a body may have.
const NODES: usize = 500;
/// Inputs that a node may have.
const INPUTS: usize = 256;

fn worst() -> Vec<(&'static str, String)> {
    let source = |id: usize| node(id, "EmptyImage", r#""width":64,"height":64,"batch_size":1,"color":0"#);
    let links = |place: usize, count: usize, name: &str| {
        (0..count).map(|n| format!(r#""{name}{n}":["{}",0]"#, place % 3)).collect::<Vec<_>>().join(",")
    };
    let repeat = |text: &str, bytes: usize| text.repeat(bytes / text.len());
    vec![
        (
            "chain of 200",
            graph(CHAIN, |n| match n {
                0 => source(0),
                n => node(n, "ImageInvert", &format!(r#""image":["{}",0]"#, n - 1)),
            }),
        ),
        (
            "chain of 200, doubling batches",
            graph(CHAIN, |n| match n {
                0 => source(0),
                n => node(n, "ImageBatch", &format!(r#""image1":["{0}",0],"image2":["{0}",0]"#, n - 1)),
            }),
        ),
        (
            "chain of 200, doubling texts",
            graph(CHAIN, |n| match n {
                0 => node(0, "PrimitiveString", r#""value":"x""#),
                n => node(
                    n,
                    "StringConcatenate",
                    &format!(r#""string_a":["{0}",0],"string_b":["{0}",0],"delimiter":"""#, n - 1),
                ),
            }),
        ),
        (
            "chain of 200 switches",
            graph(CHAIN, |n| match n {
                0 => node(0, "PrimitiveInt", r#""value":20"#),
                n => node(
                    n,
                    "ComfySwitchNode",
                    &format!(r#""switch":true,"on_true":["{0}",0],"on_false":["{0}",0]"#, n - 1),
                ),
            }),
        ),
        (
            "fan: 500 nodes on one",
            graph(NODES, |n| match n {
                0 => source(0),
                n => node(n, "PreviewImage", r#""images":["0",0]"#),
            }),
        ),
        (
            "fan: 500 nodes, 256 declared links each",
            graph(NODES, |n| match n {
                0..3 => source(n),
                n => node(n, "BatchImagesNode", &links(n, 100, "images.image")),
            }),
        ),
        (
            "samplers: 500 over the caps",
            graph(NODES, |n| match n {
                0 => node(0, "EmptyLatentImage", r#""width":64,"height":64,"batch_size":1"#),
                n => node(
                    n,
                    "KSampler",
                    r#""latent_image":["0",0],"steps":9999,"cfg":8.0,"sampler_name":"euler","scheduler":"normal","denoise":1.0,"seed":1"#,
                ),
            }),
        ),
        (
            "texts: 2 MiB of plain letters",
            graph(NODES, |n| {
                node(n, "CLIPTextEncode", &format!(r#""text":"{}""#, repeat("a photograph of a cat, ", 100_000)))
            }),
        ),
        (
            "texts: 2 MiB of escapes",
            graph(NODES, |n| {
                node(n, "CLIPTextEncode", &format!(r#""text":"{}""#, repeat("\\u00e9\\n\\ud83d\\ude00\\\"", 100_000)))
            }),
        ),
        (
            "save prefixes: 500 of the longest",
            graph(NODES, |n| {
                node(n, "SaveImage", &format!(r#""images":["0",0],"filename_prefix":"{}""#, repeat("%year%/", 4000)))
            }),
        ),
        (
            "numbers: 2 MiB in odd objects",
            graph(NODES, |n| node(n, "EmptyImage", &format!(r#""width":{{"a":[{}1]}}"#, repeat("1.25e-3,", 4000)))),
        ),
        (
            "small values: as many as may be",
            graph(NODES, |n| node(n, "EmptyImage", &format!(r#""width":{{"a":[{}1]}}"#, "1,".repeat(190)))),
        ),
        (
            "objects: long keys of one beginning",
            graph(NODES, |n| {
                let keys: Vec<String> = (0..190).map(|k| format!(r#""{}{k}":1"#, "k".repeat(12))).collect();
                node(n, "EmptyImage", &format!(r#""width":{{{}}}"#, keys.join(",")))
            }),
        ),
        ("object: 90000 keys in one", {
            let mut keys = String::new();
            for n in 0..90_000 {
                let _ = write!(keys, "\"{n:x}\":1,");
            }
            graph(1, |_| node(0, "EmptyImage", &format!(r#""width":{{{keys}"z":1}}"#)))
        }),
        (
            "inputs: 500 × 256 undeclared",
            graph(NODES, |n| {
                let inputs: Vec<String> =
                    (0..INPUTS.min(100_000 / NODES - 5)).map(|k| format!(r#""x{k}":1"#)).collect();
                node(n, "KSampler", &inputs.join(","))
            }),
        ),
        (
            "inputs: 256 with long names",
            graph(NODES, |n| {
                let inputs: Vec<String> = (0..190).map(|k| format!(r#""{}{k}":1"#, "x".repeat(15))).collect();
                node(n, "ResizeImageMaskNode", &inputs.join(","))
            }),
        ),
        (
            "violations: everything unknown",
            graph(NODES, |n| node(n, &format!("Nothing{}", "x".repeat(200)), &links(n, 190, "a"))),
        ),
        (
            "names: 500 long classes and titles",
            graph(NODES, |n| {
                format!(
                    r#""{n:060}":{{"class_type":"{}","inputs":{{}},"_meta":{{"title":"{}"}}}}"#,
                    "y".repeat(256),
                    "t".repeat(1024)
                )
            }),
        ),
        (
            "files: 500 suffixes and dots",
            graph(NODES, |n| node(n, "LoadImage", &format!(r#""image":"{}a.png [input]""#, "../".repeat(1300)))),
        ),
        (
            "sigmas: 2 MiB of digits",
            graph(NODES, |n| node(n, "ManualSigmas", &format!(r#""sigmas":"{}""#, repeat("1 ", 100_000)))),
        ),
        // Texts of 1.9 MB that a small body makes, and 400 nodes that read them.
        ("texts: 400 prompts from one joined text", readers("cat ", "CLIPTextEncode", "text")),
        ("sigmas: 400 from one joined text", readers("1 ", "ManualSigmas", "sigmas")),
        (
            "texts: 400 joined of one each",
            graph(NODES, |n| match n {
                0 => node(0, "PrimitiveString", &format!(r#""value":"{}""#, repeat("cat ", 120_000))),
                1..=200 => {
                    node(n, "StringConcatenate", &format!(r#""string_a":["0",0],"string_b":"{n}","delimiter":"""#))
                }
                n => node(n, "CLIPTextEncode", &format!(r#""text":["{}",0]"#, 1 + n % 200)),
            }),
        ),
        (
            "expressions: 2 MiB",
            graph(NODES, |n| node(n, "ComfyMathExpression", &format!(r#""expression":"{}1""#, repeat("(1+2)*", 4000)))),
        ),
    ]
}

/// A text that four nodes make 16 times as long, beside a sampler with Brownian noise, and 400 nodes that take it.
fn readers(part: &str, class: &str, input: &str) -> String {
    graph(406, |n| match n {
        0 => node(0, "PrimitiveString", &format!(r#""value":"{}""#, part.repeat(120_000 / part.len()))),
        1..=4 => {
            node(n, "StringConcatenate", &format!(r#""string_a":["{0}",0],"string_b":["{0}",0],"delimiter":"""#, n - 1))
        }
        5 => node(5, "KSamplerSelect", r#""sampler_name":"dpmpp_sde""#),
        n => node(n, class, &format!(r#""{input}":["4",0]"#)),
    })
}

/// A graph of ordinary size with the page's own form of it, as large as that may be.
fn page_workflow() -> Case {
    let prompt = r#"{"1":{"class_type":"EmptyImage","inputs":{"width":64,"height":64,"batch_size":1,"color":0}},"2":{"class_type":"PreviewImage","inputs":{"images":["1",0]}}}"#;
    let mut nodes = String::new();
    for id in 0..12_000 {
        let _ = write!(
            nodes,
            r#"{{"id":{id},"type":"KSampler","pos":[12.5,-30],"flags":{{}},"order":1,"mode":0,"inputs":[{{"name":"model","type":"MODEL","link":1}}],"properties":{{"Node name for S&R":"KSampler"}},"widgets_values":[1,"fixed",20,8,"euler"]}},"#
        );
    }
    let body = format!(
        r#"{{"prompt":{prompt},"extra_data":{{"extra_pnginfo":{{"workflow":{{"id":"w","nodes":[{nodes}{{}}]}}}}}}}}"#
    );
    Case { name: "page's own form: 12000 nodes".to_owned(), files: FileFacts::none(), body: body.into_bytes() }
}
