//! How much work a job is, as far as that is known before it runs.

use comfygate_policy::{ApprovedWorkflow, QueueOrder};
use serde::{Deserialize, Serialize};

/// Models that are remembered of one job, and characters of each name.
const MODELS_MAX: usize = 16;
const NAME_CHARS_MAX: usize = 200;
/// Inputs that name the model which does most of the work, in ComfyUI's own loaders and in most packs'.
const MAIN_INPUTS: [&str; 4] = ["ckpt_name", "unet_name", "model_name", "model"];

/// What scheduling and budgets need to know of a workflow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// The policy engine's bound, in sampling steps of SDXL at 1024 × 1024; finite, 0 or more.
    pub units: f64,
    /// The files that have to be loaded for it, in order, each once; without LoRAs, which are laid over a loaded model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// The one that does most of the work; empty if it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
}

impl Work {
    /// That of an approved workflow.
    pub fn of(workflow: &ApprovedWorkflow) -> Self {
        let loaded: Vec<_> = workflow.models().iter().filter(|model| !model.input.starts_with("lora")).collect();
        let main = MAIN_INPUTS.iter().find_map(|input| loaded.iter().find(|model| model.input == *input));
        let model = main.or(loaded.first()).map(|model| short(&model.name)).unwrap_or_default();
        let mut models: Vec<String> = loaded.iter().map(|model| short(&model.name)).collect();
        models.sort_unstable();
        models.dedup();
        models.truncate(MODELS_MAX);
        Self { units: workflow.cost().units(), models, model }
    }
}

fn short(name: &str) -> String {
    name.chars().take(NAME_CHARS_MAX).collect()
}

/// What an order means for a job whose own counter says `number` (ComfyUI 0.8.0, `server.py` `post_prompt`).
pub(super) fn place(order: Option<QueueOrder>, number: u64) -> Option<f64> {
    order.map(|order| match order {
        QueueOrder::Number(number) => number,
        QueueOrder::Front => -(number as f64),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use comfygate_policy::{Catalogue, FileFacts, Policy, Verdict};

    fn work(nodes: &str) -> Work {
        let parsed = comfygate_policy::parse(format!(r#"{{"prompt":{{{nodes}}}}}"#).as_bytes()).unwrap();
        let policy = Policy::builtin("generous").unwrap();
        match comfygate_policy::decide(&parsed, &policy, Catalogue::builtin(), &FileFacts::none()) {
            Verdict::Allow(workflow) => Work::of(&workflow),
            Verdict::Deny(violations) => panic!("{violations:?}"),
        }
    }

    #[test]
    fn the_models_are_those_to_be_loaded_and_the_main_one_is_the_checkpoint() {
        let work = work(
            r#""1":{"class_type":"VAELoader","inputs":{"vae_name":"a.safetensors"}},
               "2":{"class_type":"CheckpointLoaderSimple","inputs":{"ckpt_name":"z.safetensors"}},
               "3":{"class_type":"LoraLoader","inputs":{"model":["2",0],"clip":["2",1],"lora_name":"l.safetensors","strength_model":1.0,"strength_clip":1.0}},
               "4":{"class_type":"CLIPTextEncode","inputs":{"clip":["3",1],"text":"a"}},
               "5":{"class_type":"EmptyLatentImage","inputs":{"width":1024,"height":1024,"batch_size":1}},
               "6":{"class_type":"KSampler","inputs":{"model":["3",0],"positive":["4",0],"negative":["4",0],"latent_image":["5",0],"seed":1,"steps":20,"cfg":7.0,"sampler_name":"euler","scheduler":"normal","denoise":1.0}},
               "7":{"class_type":"VAEDecode","inputs":{"samples":["6",0],"vae":["1",0]}},
               "8":{"class_type":"SaveImage","inputs":{"images":["7",0],"filename_prefix":"x"}}"#,
        );
        assert_eq!(work.models, ["a.safetensors", "z.safetensors"]);
        assert_eq!(work.model, "z.safetensors");
        assert!(work.units > 10.0, "{}", work.units);
    }

    #[test]
    fn a_number_is_taken_as_it_is_and_the_front_is_before_every_counter() {
        assert_eq!(place(None, 7), None);
        assert_eq!(place(Some(QueueOrder::Number(-0.5)), 7), Some(-0.5));
        assert_eq!(place(Some(QueueOrder::Front), 7), Some(-7.0));
    }
}
