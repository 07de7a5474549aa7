//! Where a tenant behind the gateway is answered otherwise than by a ComfyUI of its own, each with its reason.

use crate::replay::Fault;

/// What the gateway answers instead.
#[derive(Debug)]
pub enum Now {
    /// This, to the letter, in its comparable form.
    Is(&'static str),
    /// This status, with this stable code.
    Refused(u16, &'static str),
    /// What was recorded, once both sides are made alike in this respect (`through`).
    Levelled,
    /// The recorded status, with a body that says why.
    Said,
}

/// A difference that is meant.
#[derive(Debug)]
pub struct Promise {
    /// Names of exchanges or files; none stands for all.
    of: &'static [&'static str],
    /// Of a [`Fault`].
    pub part: &'static str,
    /// What was recorded, where it matters.
    recorded: Option<&'static str>,
    pub now: Now,
    pub why: &'static str,
}

impl Promise {
    pub fn covers(&self, fault: &Fault) -> bool {
        let named = self.of.is_empty() || self.of.contains(&fault.exchange.as_str());
        let as_said = match self.now {
            Now::Is(text) => fault.now == text,
            Now::Refused(status, code) => {
                fault.now.starts_with(&format!("{status} ")) && fault.now.contains(&format!("\"code\":\"{code}\""))
            }
            Now::Levelled => fault.now.is_empty() && fault.exchange.is_empty(),
            // A text inside of a text, as bodies of refusals were none of JSON.
            Now::Said => fault.recorded == "\"\"" && fault.now.contains("\\\"code\\\":"),
        };
        named && self.part == fault.part && self.recorded.is_none_or(|text| fault.recorded == text) && as_said
    }

    /// Which of its names none of the faults has.
    pub fn missed(&self, faults: &[Fault]) -> Vec<&'static str> {
        if self.of.is_empty() {
            return if faults.iter().any(|fault| self.covers(fault)) { Vec::new() } else { vec!["any exchange"] };
        }
        let covered = |name: &&str| faults.iter().any(|fault| fault.exchange == *name && self.covers(fault));
        self.of.iter().filter(|name| !covered(name)).copied().collect()
    }
}

const fn levelled(part: &'static str, why: &'static str) -> Promise {
    Promise { of: &[], part, recorded: None, now: Now::Levelled, why }
}

const fn refused(of: &'static [&'static str], status: u16, code: &'static str, why: &'static str) -> Promise {
    Promise { of, part: "status", recorded: None, now: Now::Refused(status, code), why }
}

const fn body(of: &'static [&'static str], now: &'static str, why: &'static str) -> Promise {
    Promise { of, part: "body", recorded: None, now: Now::Is(now), why }
}

const fn header(
    of: &'static [&'static str],
    part: &'static str,
    recorded: &'static str,
    now: &'static str,
    why: &'static str,
) -> Promise {
    Promise { of, part, recorded: Some(recorded), now: Now::Is(now), why }
}

const ALL: &[&str] = &[];
const JSON: &str = "Some(\"application/json\")";
const PROBLEM: &str = "Some(\"application/problem+json\")";
const NOT_UPSTREAM: &str = "a number is a JSON number: texts say nothing of the order";
const WHY_SAID: &str = "a refusal says why, with a stable code";
const WHY_NUMBER: &str = "texts, fractions and truth values are no whole numbers: what is judged is what runs";
const WHY_ENCODING: &str = "one encoding, one reading: what parsers differ on is refused";
const WHY_SHAPE: &str = "what is no graph is refused before any node of it is looked at";
const WHY_POLICY: &str = "a refusal by policy is 403, one of form 400";
const WHY_TARGET: &str = "a path has one spelling";
const WHY_PATHS: &str = "folders of a server are nobody's business";
const WHY_FILE: &str = "what a name that is a path would be is not told: there is nothing";
const WHY_NAMED: &str = "shown beside a page, under its own name in any script";

pub const PROMISES: &[Promise] = &[
    levelled("url", "every file of a result has a signed URL"),
    levelled("queue", "who waits is told how many jobs go before"),
    levelled("number", "each tenant counts its own submissions, of which refused ones are none"),
    levelled(
        "wording",
        "the types of what is wrong with a workflow, and the nodes, are ComfyUI's; the words are the gateway's",
    ),
    levelled("cached", "ComfyUI keeps the results of the last job only, and the last one was another tenant's"),
    levelled("executed", "an output is told once its files are there"),
    levelled("missed", "the end of a job that ended while nobody of its client listened is told to the next that does"),
    header(ALL, "Content-Type", "Some(\"application/json; charset=utf-8\")", JSON, "JSON has no other charset"),
    header(ALL, "Content-Type", "None", PROBLEM, WHY_SAID),
    header(ALL, "Content-Type", "Some(\"application/octet-stream\")", PROBLEM, WHY_SAID),
    header(&["GET /ws"], "Content-Type", "Some(\"text/plain; charset=utf-8\")", PROBLEM, WHY_SAID),
    header(&["POST /prompt raw foreign_origin"], "Content-Type", "None", JSON, WHY_SAID),
    Promise {
        of: &[
            "GET /view",
            "GET /view?filename=nope.png",
            "GET /view?filename=x.png&type=bad",
            "GET /system_stats/",
            "GET /nosuch",
            "POST /prompt raw foreign_origin",
            "POST /upload/image traversal",
        ],
        part: "body",
        recorded: None,
        now: Now::Said,
        why: WHY_SAID,
    },
    body(
        &["GET /system_stats", "GET /api/system_stats"],
        r#"{"system":{"os":"","ram_total":"<number>","ram_free":"<number>","comfyui_version":"0.8.0","required_frontend_version":"<text>","installed_templates_version":"<text>","required_templates_version":"<text>","python_version":"<text>","pytorch_version":"<text>","embedded_python":false,"argv":"<list>"},"devices":[{"name":"gpu 0","type":"cuda","index":0,"vram_total":"<number>","vram_free":"<number>","torch_vram_total":"<number>","torch_vram_free":"<number>"}]}"#,
        "what a machine is and has is not told; the shape stays",
    ),
    body(
        &["GET /features"],
        r#"{"supports_preview_metadata":true,"max_upload_size":104857600}"#,
        "routes of the Manager are shut, and no page shall look for them",
    ),
    Promise {
        of: &["ws-success-preview-metadata.json"],
        part: "events",
        recorded: None,
        now: Now::Is(r#"feature_flags {"supports_preview_metadata":true,"max_upload_size":104857600}"#),
        why: "as GET /features",
    },
    Promise {
        of: &["ws-error.json"],
        part: "events",
        recorded: None,
        now: Now::Is(
            r#"execution_error {"prompt_id":"<uuid>","node_id":"3","node_type":"GateProbeFail","executed":[],"exception_message":"probe failure\n","exception_type":"RuntimeError","traceback":"<list>","current_inputs":[],"current_outputs":["1","2","3"],"timestamp":"<number>"}"#,
        ),
        why: "printed values of inputs may hold paths and names of files: they are left out",
    },
    body(
        &["GET /models"],
        r#"["checkpoints","loras","vae","text_encoders","diffusion_models","clip_vision","style_models","embeddings","diffusers","vae_approx","controlnet","gligen","upscale_models","latent_upscale_models","hypernetworks","photomaker","classifiers","model_patches","audio_encoders"]"#,
        "configs and custom_nodes hold no models",
    ),
    body(
        &["GET /users"],
        r#"{"storage":"server","migrated":true}"#,
        "settings are kept here from the start: a page has none of its browser's to bring along",
    ),
    body(
        &["GET /internal/folder_paths"],
        r#"{"checkpoints":[],"loras":[],"vae":[],"text_encoders":[],"diffusion_models":[],"clip_vision":[],"style_models":[],"embeddings":[],"diffusers":[],"vae_approx":[],"controlnet":[],"gligen":[],"upscale_models":[],"latent_upscale_models":[],"hypernetworks":[],"photomaker":[],"classifiers":[],"model_patches":[],"audio_encoders":[]}"#,
        WHY_PATHS,
    ),
    body(
        &["GET /experiment/models"],
        r#"[{"name":"checkpoints","folders":[]},{"name":"loras","folders":[]},{"name":"vae","folders":[]},{"name":"text_encoders","folders":[]},{"name":"diffusion_models","folders":[]},{"name":"clip_vision","folders":[]},{"name":"style_models","folders":[]},{"name":"embeddings","folders":[]},{"name":"diffusers","folders":[]},{"name":"vae_approx","folders":[]},{"name":"controlnet","folders":[]},{"name":"gligen","folders":[]},{"name":"upscale_models","folders":[]},{"name":"latent_upscale_models","folders":[]},{"name":"hypernetworks","folders":[]},{"name":"photomaker","folders":[]},{"name":"classifiers","folders":[]},{"name":"model_patches","folders":[]},{"name":"audio_encoders","folders":[]}]"#,
        WHY_PATHS,
    ),
    refused(
        &["GET /view?filename=../../main.py", "GET /view?filename=x.png&subfolder=../.."],
        404,
        "not_found",
        WHY_FILE,
    ),
    refused(&["GET //system_stats", "GET /%73ystem_stats", "GET /userdata traversal"], 400, "odd_target", WHY_TARGET),
    body(
        &["POST /prompt unknown_class"],
        r#"{"error":"prompt_outputs_failed_validation","node_errors":{"1":{"class_type":"NoSuch","dependent_outputs":["2"],"errors":["invalid_prompt"]}}}"#,
        "a class that is not there is said at its node, beside whatever else is wrong",
    ),
    body(
        &[
            "POST /prompt bad_link_len",
            "POST /prompt bad_link_id",
            "POST /prompt wrapped_list",
            "POST /prompt raw nan_literal",
        ],
        r#"{"error":"invalid_prompt","node_errors":{}}"#,
        WHY_SHAPE,
    ),
    body(&["POST /prompt cycle"], r#"{"error":"dependency_cycle","node_errors":{}}"#, "ComfyUI has no type for it"),
    refused(
        &[
            "POST /prompt too_big",
            "POST /prompt load_missing",
            "POST /prompt load_traversal",
            "POST /prompt prefix_traversal",
            "POST /prompt prefix_date",
            "POST /prompt extra_input",
        ],
        403,
        "policy_violation",
        WHY_POLICY,
    ),
    refused(
        &[
            "POST /prompt int_from_string",
            "POST /prompt int_from_underscore",
            "POST /prompt int_from_unicode",
            "POST /prompt int_from_space",
            "POST /prompt int_from_float",
            "POST /prompt int_from_bool",
        ],
        400,
        "invalid_workflow",
        WHY_NUMBER,
    ),
    refused(&["POST /prompt wrapped_value"], 400, "wrapped_value", "ComfyUI unwraps it after the checks"),
    refused(&["POST /prompt same_prompt_id"], 409, "name_taken", "two jobs of one name would share one history entry"),
    body(
        &["POST /prompt number_string", "POST /prompt number_nan"],
        r#"{"prompt_id":"<uuid>","number":"<number>","node_errors":{}}"#,
        NOT_UPSTREAM,
    ),
    refused(&["POST /prompt raw duplicate_keys"], 400, "duplicate_key", WHY_ENCODING),
    refused(&["POST /prompt raw utf16", "POST /prompt raw no_content_type"], 415, "content_type", WHY_ENCODING),
    refused(&["POST /prompt raw gzip_body"], 415, "content_encoding", WHY_ENCODING),
    refused(&["POST /prompt raw bom"], 400, "byte_order_mark", "no fault of the server's"),
    refused(&["POST /prompt raw not_json"], 400, "invalid_json", "no fault of the server's"),
    refused(&["POST /prompt raw deep_nesting"], 413, "too_deep", "no fault of the server's"),
    refused(
        &["POST /upload/image type output"],
        400,
        "malformed_form",
        "results are what jobs make, not what is uploaded",
    ),
    refused(
        &["POST /upload/image html", "POST /upload/image svg"],
        415,
        "content_refused",
        "what a browser runs is no input of a workflow",
    ),
    refused(
        &["GET /view?filename=x.html&type=input", "GET /view?filename=x.svg&type=input"],
        404,
        "not_found",
        "it was not taken",
    ),
    refused(&["POST /users create"], 404, "not_found", "users come from keys and tokens"),
    // One of them, in WebP, is asked of a real server only.
    header(
        ALL,
        "Content-Disposition",
        r#"Some("filename=\"a.png\"")"#,
        r#"Some("inline; filename=\"a.png\"; filename*=UTF-8''a.png")"#,
        WHY_NAMED,
    ),
    header(
        &["GET /view?filename=b.png&subfolder=t/acme&type=input"],
        "Content-Disposition",
        r#"Some("filename=\"b.png\"")"#,
        r#"Some("inline; filename=\"b.png\"; filename*=UTF-8''b.png")"#,
        WHY_NAMED,
    ),
    header(
        &["GET /view?filename=probe_00001_.png&subfolder=t/acme&type=output", "GET view range"],
        "Content-Disposition",
        r#"Some("filename=\"probe_00001_.png\"")"#,
        r#"Some("inline; filename=\"probe_00001_.png\"; filename*=UTF-8''probe_00001_.png")"#,
        WHY_NAMED,
    ),
    header(
        &["GET /userdata file"],
        "Content-Disposition",
        "None",
        "Some(\"attachment\")",
        "what a user has stored is never shown as a page",
    ),
    header(&["GET /userdata file"], "Accept-Ranges", "Some(\"bytes\")", "None", "small files are sent whole"),
    body(
        &["GET /history page"],
        r#"[["<uuid>",{"prompt":["<number>","<uuid>",{"5":{"class_type":"PrimitiveInt","inputs":{"value":96}},"1":{"class_type":"EmptyImage","inputs":{"width":["5",0],"height":64,"batch_size":1,"color":0}},"2":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"linked"}}},{"create_time":"<number>"},["2"]],"outputs":{"2":{"images":[{"filename":"linked_#_.png","subfolder":"","type":"output"}]}},"status":{"status_str":"success","completed":true,"messages":[["execution_start",{"prompt_id":"<uuid>","timestamp":"<number>"}],["execution_cached",{"nodes":"<nodes>","prompt_id":"<uuid>","timestamp":"<number>"}],["execution_success",{"prompt_id":"<uuid>","timestamp":"<number>"}]]},"meta":{"2":{"node_id":"2","display_node":"2","parent_node":null,"real_node_id":"2"}}}],["<uuid>",{"prompt":["<number>","<uuid>",{"1":{"class_type":"EmptyImage","inputs":{"width":64,"height":64,"batch_size":1,"color":255}},"2":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"t/acme/pic"}}},{"create_time":"<number>"},["2"]],"outputs":{"2":{"images":[{"filename":"pic_#_.png","subfolder":"t/acme","type":"output"}]}},"status":{"status_str":"success","completed":true,"messages":[["execution_start",{"prompt_id":"<uuid>","timestamp":"<number>"}],["execution_cached",{"nodes":"<nodes>","prompt_id":"<uuid>","timestamp":"<number>"}],["execution_success",{"prompt_id":"<uuid>","timestamp":"<number>"}]]},"meta":{"2":{"node_id":"2","display_node":"2","parent_node":null,"real_node_id":"2"}}}]]"#,
        "of the oldest, those of the recording were refused: the list begins with others, in the same form",
    ),
    body(
        &["GET /api/jobs page"],
        r#"{"jobs":[{"id":"<uuid>","status":"completed","priority":"<number>","create_time":"<number>","execution_start_time":"<number>","execution_end_time":"<number>","outputs_count":1,"preview_output":{"filename":"linked_#_.png","subfolder":"","type":"output","nodeId":"2","mediaType":"images"}},{"id":"<uuid>","status":"completed","priority":"<number>","create_time":"<number>","execution_start_time":"<number>","execution_end_time":"<number>","outputs_count":1,"preview_output":{"filename":"pic_#_.png","subfolder":"t/acme","type":"output","nodeId":"2","mediaType":"images"}}],"pagination":{"offset":0,"limit":2,"total":15,"has_more":true}}"#,
        "of the oldest, those of the recording were refused: the list begins with others, in the same form",
    ),
];
