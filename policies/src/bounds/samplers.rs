//! Samplers: how often one calls the model in a step, and how much it enlarges what it samples.

use super::interval::FloatInterval;
use super::{Facts, Value, number};
use crate::catalogue::{ClassSignature, TypeSet};
use crate::workflow::node::{Input, Node};

/// What is known of a SAMPLER.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sampler {
    /// Model calls in one step at most.
    pub(crate) calls: i128,
    /// How much wider and higher its result may be.
    pub(super) scale: f64,
}

/// Model calls of a step where it is more than one (ComfyUI 0.8.0, `k_diffusion/sampling.py`). `dpmpp_2m_sde_heun` is not here: it calls the model once and only corrects differently.
const CALLS: [(&str, i128); 16] = [
    ("heun", 2),
    // Two, and a third one in all steps but the last two.
    ("heunpp2", 3),
    ("exp_heun_2_x0", 2),
    ("exp_heun_2_x0_sde", 2),
    ("dpm_2", 2),
    ("dpm_2_ancestral", 2),
    ("dpmpp_2s_ancestral", 2),
    ("dpmpp_2s_ancestral_cfg_pp", 2),
    ("dpmpp_sde", 2),
    ("dpmpp_sde_gpu", 2),
    ("seeds_2", 2),
    ("seeds_3", 3),
    ("sa_solver_pece", 2),
    // Takes as many model calls as steps, whatever order each has.
    ("dpm_fast", 1),
    ("uni_pc", 1),
    ("uni_pc_bh2", 1),
];

/// Samplers of ComfyUI 0.8.0 with one call in a step.
const ONE_CALL: [&str; 27] = [
    "euler",
    "euler_cfg_pp",
    "euler_ancestral",
    "euler_ancestral_cfg_pp",
    "lms",
    "dpmpp_2m",
    "dpmpp_2m_cfg_pp",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_gpu",
    "dpmpp_2m_sde_heun",
    "dpmpp_2m_sde_heun_gpu",
    "dpmpp_3m_sde",
    "dpmpp_3m_sde_gpu",
    "ddpm",
    "lcm",
    "ipndm",
    "ipndm_v",
    "deis",
    "res_multistep",
    "res_multistep_cfg_pp",
    "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp",
    "gradient_estimation",
    "gradient_estimation_cfg_pp",
    "er_sde",
    "sa_solver",
    "ddim",
];

/// Model calls of a step of the sampler of this name; none for one that decides itself (`dpm_adaptive`) and for one that nobody has read.
pub(crate) fn calls_of(name: &str) -> Option<i128> {
    let one = || ONE_CALL.contains(&name).then_some(1);
    CALLS.iter().find(|(known, _)| *known == name).map(|(_, calls)| *calls).or_else(one)
}

/// The sampler in output `slot`.
pub(super) fn sampler(facts: &Facts<'_>, node: &Node, class: &ClassSignature, slot: usize) -> Option<Sampler> {
    if !class.output_types(slot).meets(TypeSet::SAMPLER.and(TypeSet::OTHER)) {
        return None;
    }
    if class.name() == "ComfySwitchNode" && class.is_core() {
        let branch = |name: &str| linked(facts, node, name);
        let (a, b) = (branch("on_true")?, branch("on_false")?);
        return Some(Sampler { calls: a.calls.max(b.calls), scale: a.scale.max(b.scale) });
    }
    if class.outputs().get(slot)?.type_name() != "SAMPLER" || !class.is_core() {
        return None;
    }
    let plain = |calls: i128| Sampler { calls, scale: 1.0 };
    match class.name() {
        "KSamplerSelect" => calls_of(node.text("sampler_name")?).map(plain),
        // `model(…)` again after each correction.
        "SamplerSASolver" => {
            let input = class.input(node, "use_pece")?;
            let single = number(facts, node, "use_pece", input.declared()) == Value::Bool(Some(false));
            Some(plain(if single { 1 } else { 2 }))
        }
        "SamplerLCMUpscale" => {
            let input = class.input(node, "scale_ratio")?;
            match number(facts, node, "scale_ratio", input.declared()) {
                Value::Float(FloatInterval { hi, .. }) => Some(Sampler { calls: 1, scale: hi.max(1.0) }),
                _ => None,
            }
        }
        _ => class.sampler_calls().map(i128::from).map(plain),
    }
}

/// The sampler that the input `name` is linked to.
pub(super) fn linked(facts: &Facts<'_>, node: &Node, name: &str) -> Option<Sampler> {
    match node.input(name)? {
        Input::Link(link) => facts.slot(*link)?.sampler,
        Input::Literal(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sampler_of_the_release_but_the_adaptive_one_has_a_count_of_calls() {
        let class = crate::Catalogue::builtin().class("KSampler").unwrap();
        let input = class.inputs().iter().find(|input| input.name() == "sampler_name").unwrap();
        let crate::catalogue::DeclaredType::Combo(names) = input.declared() else { panic!("a choice") };
        for name in names.iter().filter_map(serde_json::Value::as_str) {
            assert_eq!(calls_of(name).is_none(), name == "dpm_adaptive", "{name}");
        }
        assert_eq!(calls_of("of_a_pack"), None);
    }
}
