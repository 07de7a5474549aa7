//! K1 to K14 (facts §3.6) from the side of ComfyUI: what is just inside of the rules against crashes is accepted under a policy that allows everything, and the ComfyUI is alive afterwards; what is
//! just outside is refused. The tests of the engine say which rule it is (`policies/tests/bypass/crash.rs`).

use comfygate_tests::gateway::Builder;
use comfygate_tests::{Client, Gateway, workflows};
use serde_json::{Value, json};

/// A tenant whose policy allows every class and caps nothing.
pub fn with_tenant(builder: Builder) -> Builder {
    builder
        .file("open.toml", "name = \"open\"\n[classes]\nallow = [\"*\"]\n")
        .tenants_toml("[[tenant]]\nid = \"open\"\nplan = \"usual\"\npolicy = \"open.toml\"\n")
}

/// A graph that shows the first output of `last`.
fn shown(last: &str, nodes: Value) -> Value {
    let mut all = nodes;
    all["shown"] = json!({"class_type": "PreviewAny", "inputs": {"source": [last, 0]}});
    all
}

fn node(class: &str, inputs: Value) -> Value {
    json!({"class_type": class, "inputs": inputs})
}

fn chain(length: usize) -> Value {
    let mut nodes = json!({"n0": node("PrimitiveInt", json!({"value": 1}))});
    for n in 1..length {
        nodes[format!("n{n}")] = node("PrimitiveInt", json!({"value": [format!("n{}", n - 1), 0]}));
    }
    shown(&format!("n{}", length - 1), nodes)
}

fn pattern(text: &str, pattern: &str) -> Value {
    let inputs = json!({"string": text, "regex_pattern": pattern, "case_insensitive": true, "multiline": false, "dotall": false});
    shown("r", json!({"r": node("RegexMatch", inputs)}))
}

fn sigmas(text: Value) -> Value {
    let nodes = json!({"t": node("PrimitiveString", json!({"value": ".".repeat(8192)})), "g": node("ManualSigmas", json!({"sigmas": text}))});
    shown("g", nodes)
}

fn doubled_text(times: usize) -> Value {
    let mut nodes = json!({"d0": node("PrimitiveString", json!({"value": "x".repeat(1024)}))});
    for n in 1..=times {
        let from = json!([format!("d{}", n - 1), 0]);
        nodes[format!("d{n}")] =
            node("StringConcatenate", json!({"string_a": from, "string_b": from, "delimiter": ""}));
    }
    nodes["length"] = node("StringLength", json!({"string": [format!("d{times}"), 0]}));
    shown("length", nodes)
}

/// Layers of three nodes, each linked to two of the layer before; nothing runs them, but they get cache keys.
fn dense(layers: usize) -> Value {
    let mut nodes = json!({"e": node("EmptyImage", json!({"width": 8, "height": 8, "batch_size": 1, "color": 0})), "v": node("PrimitiveInt", json!({"value": 7}))});
    for layer in 0..layers {
        for place in 0..3 {
            let from = |place: usize| {
                if layer == 0 { json!(["e", 0]) } else { json!([format!("n{}-{}", layer - 1, place % 3), 0]) }
            };
            let inputs =
                json!({"destination": from(place), "source": from(place + 1), "x": 0, "y": 0, "resize_source": false});
            nodes[format!("n{layer}-{place}")] = node("ImageCompositeMasked", inputs);
        }
    }
    shown("v", nodes)
}

fn object(class: &str, input: &str) -> Value {
    let mut nodes = json!({
        "k": node("KSamplerSelect", json!({"sampler_name": "euler"})),
        "w": node("ComfySwitchNode", json!({"switch": true, "on_true": ["k", 0], "on_false": ["k", 0]})),
    });
    nodes["p"] = node(class, json!({ input: ["w", 0] }));
    nodes
}

/// What each is, what is accepted, and the nearest that is refused.
fn cases() -> Vec<(&'static str, Value, Value)> {
    let mut undeclared = workflows::quick("k2");
    undeclared["9"]["inputs"]["zzz"] = json!(["1", 0]);
    vec![
        ("K2 a link", workflows::quick("k2"), undeclared),
        ("K4 a long chain", chain(199), chain(200)),
        ("K8 a square", pattern(&"a".repeat(4000), "a*b"), pattern(&"a".repeat(40), "(a+)+b")),
        ("K8 full stops", sigmas(json!(format!("{} 1", ".".repeat(64)))), sigmas(json!(".".repeat(65)))),
        ("K8 full stops by a link", sigmas(json!(["t", 0])), sigmas(json!(".".repeat(100_000)))),
        ("K10 a long text", doubled_text(14), doubled_text(15)),
        ("K13 a dense graph", dense(50), dense(90)),
        ("K14 an object", object("PreviewAny", "source"), object("Preview3D", "model_file")),
    ]
}

/// The process answers, its history can be read, and it runs what it is given.
async fn is_alive(client: &Client) {
    client.get("/history").await.expect(200);
    let prompt = client.submit(workflows::quick("alive")).await;
    assert_eq!(client.finished(&prompt).await["status"]["status_str"], "success");
}

pub async fn what_is_nearly_fatal_is_survived(gateway: &Gateway) {
    let client = gateway.client("open");
    for (what, inside, outside) in cases() {
        let answer = client.post("/prompt", &json!({"prompt": inside})).await;
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        // Some fail when they run, as `1` among full stops may; none takes the ComfyUI with it.
        client.finished(answer.json()["prompt_id"].as_str().unwrap()).await;
        let answer = client.post("/prompt", &json!({"prompt": outside})).await;
        assert!(answer.status.is_client_error(), "{what}: {}", answer.text());
        is_alive(&client).await;
    }
    gateway.backends_are_up().await;
}
