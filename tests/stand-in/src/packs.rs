//! Made-up node packs: each has a script for the page, a route of its own, an event that names no prompt, and one node class.

use std::sync::LazyLock;

use indexmap::IndexMap;

use crate::json::{Json, dict};

/// Most packs that can be asked for.
pub const PACKS_MAX: u32 = 50;

/// The classes of all packs that can be asked for, `Pack1Say` first.
static CLASSES: LazyLock<IndexMap<String, Json>> =
    LazyLock::new(|| (1..=PACKS_MAX).map(|number| (class_of(number), info(number))).collect());

/// `Pack<n>Say`.
pub fn class_of(number: u32) -> String {
    format!("Pack{number}Say")
}

/// The number of the pack that has this class, among the first `packs`.
pub fn number_of(class: &str, packs: u32) -> Option<u32> {
    let number = class.strip_prefix("Pack")?.strip_suffix("Say")?.parse().ok()?;
    ((1..=packs).contains(&number) && class_of(number) == class).then_some(number)
}

/// The number of a pack by its name `pack_<n>`, among the first `packs`.
pub fn number_of_name(name: &str, packs: u32) -> Option<u32> {
    let number: u32 = name.strip_prefix("pack_")?.parse().ok()?;
    ((1..=packs).contains(&number) && format!("pack_{number}") == name).then_some(number)
}

/// The class's entry in `/object_info`, if it is of one of the first `packs`.
pub fn class(name: &str, packs: u32) -> Option<&'static Json> {
    number_of(name, packs).and_then(|_| CLASSES.get(name))
}

/// Names of the classes of the first `packs`.
pub fn names(packs: u32) -> impl Iterator<Item = &'static str> {
    CLASSES.keys().take(packs as usize).map(String::as_str)
}

/// The event of a pack: it goes to every socket and names no prompt, as many packs' do.
pub fn event(number: u32) -> String {
    format!("pack_{number}.event")
}

/// Path of a pack's script, as `/extensions` lists it.
pub fn script_path(number: u32) -> String {
    format!("/extensions/pack_{number}/pack.js")
}

/// The script: asks the pack's route and notes what it hears, on `window.packs`.
pub fn script(number: u32) -> String {
    format!(
        r#"import {{ app }} from "../../scripts/app.js";
import {{ api }} from "../../scripts/api.js";
const seen = ((window.packs ??= {{}})["pack_{number}"] = {{ hello: null, events: [] }});
app.registerExtension({{
  name: "pack_{number}",
  async setup() {{
    api.addEventListener("pack_{number}.event", (event) => seen.events.push(event.detail));
    seen.hello = await (await api.fetchApi("/pack_{number}/hello")).json();
  }},
}});
"#
    )
}

/// What the route answers.
pub fn hello(number: u32) -> Json {
    dict([("hello", format!("pack_{number}").into())])
}

fn info(number: u32) -> Json {
    let text = Json::List(vec!["STRING".into(), dict([("default", "hello".into())])]);
    let list = |items: Vec<Json>| Json::List(items);
    dict([
        ("input", dict([("required", dict([("text", text)]))])),
        ("input_order", dict([("required", list(vec!["text".into()]))])),
        ("output", list(Vec::new())),
        ("output_is_list", list(Vec::new())),
        ("output_name", list(Vec::new())),
        ("name", class_of(number).into()),
        ("display_name", format!("Pack {number} says").into()),
        ("python_module", format!("custom_nodes.pack_{number}").into()),
        ("category", "packs".into()),
        ("output_node", Json::Bool(true)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_are_found_by_their_own_names_up_to_their_number() {
        assert_eq!(number_of("Pack2Say", 2), Some(2));
        assert_eq!(number_of_name("pack_2", 2), Some(2));
        for none in ["Pack3Say", "Pack0Say", "Pack02Say", "Pack+1Say", "PackSay", "SaveImage"] {
            assert_eq!(number_of(none, 2), None, "{none}");
        }
        assert_eq!(number_of_name("pack_02", 2), None);
        assert_eq!(names(2).collect::<Vec<_>>(), ["Pack1Say", "Pack2Say"]);
        assert_eq!(class("Pack1Say", 1).unwrap().get("python_module"), Some(&Json::from("custom_nodes.pack_1")));
    }
}
