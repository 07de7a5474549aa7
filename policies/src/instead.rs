//! What to do instead of what was refused, for each code of a violation and of a fault in a body. Told after the reason, so that the reason itself stays short.

/// The advice for a code; none for a code that nobody has.
pub(crate) fn instead(code: &str) -> Option<&'static str> {
    Some(match code {
        // Classes
        "class_banned" => "use another class, or ask the operator",
        "class_closed" => "use another class, or ask the operator to look at it (`comfygate catalogue diff`)",
        "class_denied" | "class_not_allowed" => "use another class, or ask the operator to allow it",
        "class_expands" => "use classes that do the same without it",
        "class_unknown" => "use another class, or ask the operator to install its pack",
        "paid_node_refused" => "use a class that runs here, or ask the operator to say who pays",
        // Inputs
        "undeclared_input" => "remove it, or export the workflow again from the page of this ComfyUI",
        "reserved_input" => "remove it",
        "required_input_missing" => "give it a value or a link",
        "invalid_input_type" => "write a value of that type",
        "value_smaller_than_min" | "value_bigger_than_max" => "choose a number within the range",
        "value_not_in_list" => "choose one that the node offers",
        // Links
        "bad_linked_input" => "link an output that is there, as [\"<node id>\", <slot>] with slots from 0",
        "return_type_mismatch" => "link an output of the declared type",
        "linked_input_refused" => "write it into the node itself",
        // Files and addresses
        "file_name_refused" => "give the name of an uploaded file",
        "file_not_found" => "upload it first, or name a file of your own",
        "file_refused" => "use another input or directory, or ask the operator to allow it",
        "file_suffix_refused" => "write it exactly so, or leave it out",
        "path_refused" => "give the plain name of a model or of an uploaded file",
        "save_prefix_refused" => "use a plain name, with `/` between folders",
        "address_refused" => "write down a plain address that the policy allows, or upload the file",
        // Models and texts
        "model_denied" | "model_not_allowed" => "choose another model, or ask the operator to allow it",
        "model_unknown" => "write the model's name into the node itself",
        "text_too_long" => "shorten it",
        "text_denied" => "word it differently",
        "text_unknown" => "write the text into the node itself",
        "embedding_refused" => "take it out of the text, or ask the operator to allow it",
        // Caps
        "cap_exceeded" => "ask for less",
        "value_unbounded" | "number_unbounded" => "write the number down, or link a number that is written down",
        "steps_unbounded" => "use a sampler and a schedule whose steps are a number",
        "steps_total_exceeded" => "use fewer steps, or fewer samplers",
        "denoise_too_small" => "use 0 or a larger number",
        "overlap_too_large" => "let the pieces overlap less, or make them larger",
        "sampler_refused" | "scheduler_refused" => "choose another one",
        "size_exceeded" => "make it smaller, shorter, or fewer at once",
        "size_unbounded" => "use nodes whose size is known, or write the size down",
        "list_output" => "use a class that gives a single item or a batch",
        "cost_exceeded" => "use fewer steps, or make smaller, shorter or fewer pictures",
        "too_many_nodes" => "split the workflow",
        "too_many_outputs" => "remove some, or run them one after the other",
        // The whole
        "prompt_no_outputs" => "add a node that saves or shows something, such as SaveImage",
        // What brings a ComfyUI down
        "memory_exceeded" => "make it smaller, shorter, or fewer at once",
        "sound_unbounded" => {
            "convert it to plain WAV or FLAC of a usual rate and upload that, or make the sound in the workflow"
        }
        "sample_rate_refused" => "use 44100 or 48000",
        "schedule_too_long" => "use fewer steps, or a larger denoise",
        "schedule_refused" => "use other noise levels, or another sampler",
        "text_exceeded" => "join or replace less",
        "text_unbounded" => "give it texts that are written down",
        "expression_refused" => "write plain arithmetic of small numbers into the node itself",
        "regex_refused" => "write a simple pattern into the node itself, and give it a short text",
        "type_unknown" => "link an output of the declared type",
        "conditioning_exceeded" | "merge_exceeded" => "join or merge fewer of them",
        "passes_exceeded" => "combine fewer conditionings and patches",
        "prompt_too_long" => "shorten it",
        "repeats_exceeded" | "tracks_exceeded" => "repeat less, or make it smaller",
        "too_densely_linked" => "link fewer nodes to each other",
        // Faults of the body
        "body_too_large" | "part_too_large" | "too_many_values" | "too_many_inputs" => "send a smaller workflow",
        "string_too_long" | "number_too_long" => "shorten it",
        "too_deep" => "nest less",
        "path_too_long" => "split the workflow",
        "dependency_cycle" => "remove a link of the cycle",
        "invalid_utf8" | "byte_order_mark" => "save the file as UTF-8 without a byte order mark",
        "invalid_json" | "trailing_data" => "send one value of JSON as RFC 8259 has it",
        "not_finite" | "integer_out_of_range" => "write a number that fits into 64 bits",
        "lone_surrogate" => "write whole characters",
        "duplicate_key" => "keep one of the two",
        "invalid_body" | "no_prompt" | "invalid_prompt" => {
            "send {\"prompt\": {\"<node id>\": {\"class_type\": …, \"inputs\": {…}}}}"
        }
        "page_format" => "export it for programs with \"Workflow → Export (API)\" in the page's menu",
        "invalid_credential" => "send the key as comfy.org gave it, or leave it out",
        "invalid_type" => "leave it out, or write it in that type",
        "invalid_id" => "leave it out, or choose another one",
        "invalid_target" => "name nodes of this prompt only, or leave the targets out",
        "invalid_preview_method" => "leave it out, or choose one of them",
        "invalid_node_id" | "invalid_input_name" => "rename it",
        "invalid_node" => "write it as {\"class_type\": …, \"inputs\": {…}}",
        "invalid_class_type" => "give the node the name of its class",
        "invalid_inputs" => "write its inputs as an object, {} if there are none",
        "wrapped_value" => "write the value itself",
        _ => return None,
    })
}

/// A reason with what to do instead.
pub(crate) fn with_advice(reason: String, code: &str) -> String {
    match instead(code) {
        Some(advice) if reason.is_empty() => advice.to_owned(),
        Some(advice) => format!("{reason}; {advice}"),
        None => reason,
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the test reads the rules for the codes that they have")]
mod tests {
    use super::instead;
    use std::collections::BTreeSet;

    /// The codes that stand in calls which make faults of a body: the first text between quotation marks after the name.
    fn codes_of_parsing() -> BTreeSet<String> {
        let calls = ["fault(", "fault_at(", "too_large(", "ParseError::of("];
        let mut codes = BTreeSet::new();
        for name in ["submission.rs", "workflow/graph.rs", "workflow/json.rs"] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(name);
            let source = std::fs::read_to_string(path).unwrap();
            let source = source.split("#[cfg(test)]").next().unwrap_or_default();
            for after in calls.iter().flat_map(|call| source.split(call).skip(1)) {
                let Some((before, rest)) = after.split_once('"') else { continue };
                // A call whose code is a variable.
                if before.contains(')') || before.contains(';') {
                    continue;
                }
                codes.extend(rest.split('"').next().map(str::to_owned));
            }
        }
        codes
    }

    #[test]
    fn every_fault_of_a_body_says_what_to_do_instead() {
        let codes = codes_of_parsing();
        assert!(codes.len() >= 30, "{codes:?}");
        for code in codes {
            assert!(instead(&code).is_some_and(|advice| advice.len() >= 6), "{code}");
        }
        assert_eq!(instead("no_such_code"), None);
    }
}
