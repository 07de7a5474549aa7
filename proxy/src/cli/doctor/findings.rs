//! What is wrong with a ComfyUI that stands behind a gateway: the rules, without I/O.

use super::advisories::{self, Advisory};
use crate::config::{BackendConfig, GpuName};
use crate::dispatch::facts::BackendFacts;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// How bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The gateway can be gone round, or does not work.
    Problem,
    /// Dangerous once something else fails.
    Warning,
    /// Good to know.
    Note,
}

impl Level {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Problem => "problem",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad.
    pub level: Level,
    /// Stable, for programs.
    pub code: &'static str,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub instead: String,
}

/// From where a backend can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reached {
    /// By loopback and no other address that was tried.
    #[default]
    LoopbackOnly,
    /// By this address of the machine too.
    AlsoBy(IpAddr),
    /// It is on another machine.
    Remote,
}

/// What was seen of one backend.
#[derive(Debug, Clone, Default)]
pub struct Looked {
    /// Why nothing was seen.
    pub unreachable: Option<String>,
    /// `comfyui_version`.
    pub version: String,
    /// The process's command line.
    pub argv: Vec<String>,
    /// Names of devices, such as `cuda:0 NVIDIA H200 : cudaMallocAsync`.
    pub devices: Vec<String>,
    /// A route of ComfyUI-Manager answers.
    pub manager_answers: bool,
    /// The assets API answers.
    pub assets_answer: bool,
    /// From where.
    pub reached: Reached,
    /// What the gateway itself remembers of it.
    pub facts: Option<BackendFacts>,
}

impl Looked {
    /// For people.
    pub fn summary(&self) -> String {
        match &self.unreachable {
            Some(_) => String::new(),
            None => format!("ComfyUI {}, {}", self.version, self.devices.join(", ")),
        }
    }

    fn has(&self, flag: &str) -> bool {
        self.argv.iter().any(|argument| argument == flag || argument.starts_with(&format!("{flag}=")))
    }

    /// The value of a flag: `--flag value` or `--flag=value`; empty if it has none.
    fn value(&self, flag: &str) -> Option<String> {
        let place = self.argv.iter().position(|argument| argument == flag);
        let inline = self.argv.iter().find_map(|argument| argument.strip_prefix(&format!("{flag}=")));
        match (inline, place) {
            (Some(value), _) => Some(value.to_owned()),
            (None, Some(place)) => {
                let next = self.argv.get(place + 1).filter(|next| !next.starts_with("--"));
                Some(next.cloned().unwrap_or_default())
            }
            (None, None) => None,
        }
    }

    /// The addresses that `--listen` names. Without a value it means every address (comfy/cli_args.py).
    fn listens_beyond_loopback(&self) -> Option<String> {
        let value = self.value("--listen")?;
        let named = if value.is_empty() { "0.0.0.0,::".to_owned() } else { value };
        let loopback =
            |name: &str| name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        (!named.split(',').map(str::trim).all(loopback)).then_some(named)
    }
}

/// The rules for one backend.
pub(super) fn of_one(looked: &Looked) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut add = |level, code, what: String, instead: &str| {
        found.push(Finding { level, code, what, instead: instead.to_owned() });
    };
    if let Some(reason) = &looked.unreachable {
        add(
            Level::Problem,
            "unreachable",
            format!("no answer: {reason}"),
            "start ComfyUI, or correct `url` in [[backends]]",
        );
        return found;
    }
    match (looked.reached, looked.listens_beyond_loopback()) {
        (Reached::AlsoBy(address), _) => add(
            Level::Problem,
            "exposed",
            format!("it also answers on {address}: whoever reaches that goes round the gateway"),
            "start ComfyUI with `--listen 127.0.0.1`, or without `--listen`",
        ),
        (Reached::LoopbackOnly, Some(named)) => add(
            Level::Problem,
            "listens_beyond_loopback",
            format!("it was started with `--listen {named}`: whoever reaches it goes round the gateway"),
            "start ComfyUI with `--listen 127.0.0.1`, or without `--listen`",
        ),
        (Reached::Remote, _) => add(
            Level::Warning,
            "remote",
            "it is on another machine: whoever reaches it there goes round the gateway".to_owned(),
            "let its firewall admit the gateway only",
        ),
        (Reached::LoopbackOnly, None) => {}
    }
    if let Some(origin) = looked.value("--enable-cors-header") {
        let named = if origin.is_empty() { "every site".to_owned() } else { format!("`{origin}`") };
        add(
            Level::Problem,
            "cors",
            format!("its CORS header invites pages of {named}, and its own check of `Origin` is off"),
            "start ComfyUI without `--enable-cors-header`: the gateway is the only origin that is needed",
        );
    }
    if looked.manager_answers || looked.has("--enable-manager") {
        add(
            Level::Warning,
            "manager",
            "ComfyUI-Manager is on: it installs code, and behind a proxy it takes every caller for a local one"
                .to_owned(),
            "leave it out once all is installed; the gateway refuses its routes unless the policy says `routes = [\"manager\"]`",
        );
    }
    if looked.assets_answer && !looked.has("--disable-assets") {
        add(
            Level::Warning,
            "assets",
            "its assets API is on, which knows no owners".to_owned(),
            "start ComfyUI with `--disable-assets`; the gateway refuses those routes",
        );
    }
    if looked.has("--multi-user") {
        add(
            Level::Warning,
            "multi_user",
            "it was started with `--multi-user`, whose user names are no protection".to_owned(),
            "start ComfyUI without it: the gateway keeps users apart itself",
        );
    }
    add_advisories(looked, &mut add);
    let previews = looked.value("--preview-method");
    if previews.as_deref().is_none_or(|method| method == "none") {
        add(
            Level::Note,
            "previews",
            "previews while sampling are off".to_owned(),
            "start ComfyUI with `--preview-method auto` to see pictures grow",
        );
    }
    found
}

fn add_advisories(looked: &Looked, add: &mut impl FnMut(Level, &'static str, String, &str)) {
    let Some(release) = advisories::version(&looked.version) else {
        add(
            Level::Note,
            "version",
            format!("its version `{}` can't be read, so known vulnerabilities can't be told", looked.version),
            "use a released version",
        );
        return;
    };
    let known: Vec<&Advisory> = advisories::of_release(release).collect();
    if !known.is_empty() {
        let list: Vec<String> = known.iter().map(|one| format!("{} ({})", one.id, one.what)).collect();
        let newest = known.iter().map(|one| one.fixed).max().unwrap_or_default();
        add(
            Level::Warning,
            "vulnerable",
            format!("ComfyUI {} has known vulnerabilities: {}", looked.version, list.join("; ")),
            &format!(
                "update to {}.{}.{} or later; the gateway refuses what they need, as long as nobody goes round it",
                newest.0, newest.1, newest.2
            ),
        );
    }
}

/// The rules over all backends.
pub(super) fn of_all(looks: &[(&BackendConfig, Looked)]) -> Vec<Finding> {
    let mut by_gpu: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (backend, _) in looks {
        let gpu = match &backend.gpu {
            Some(GpuName::Index(index)) => index.to_string(),
            Some(GpuName::Uuid(uuid)) => uuid.clone(),
            None => continue,
        };
        by_gpu.entry(gpu).or_default().push(backend.id.to_string());
    }
    let shared = by_gpu.into_iter().filter(|(_, backends)| backends.len() > 1);
    let mut found: Vec<Finding> = shared
        .map(|(gpu, backends)| Finding {
            level: Level::Warning,
            code: "gpu_shared",
            what: format!(
                "backends {} are on one GPU ({gpu}): each takes the memory that the other counts on",
                backends.join(", ")
            ),
            instead: ONE_PER_GPU.to_owned(),
        })
        .collect();
    let local = |backend: &BackendConfig| backend.endpoint.url().is_local();
    for (place, (one, looked)) in looks.iter().enumerate() {
        for (other, others) in looks.iter().skip(place + 1) {
            let told_apart = one.gpu.is_some() && other.gpu.is_some();
            let device =
                looked.facts.as_ref().zip(others.facts.as_ref()).and_then(|(one, other)| one.shared_gpu(other));
            if let Some(device) = device.filter(|_| !told_apart && local(one) && local(other)) {
                found.push(Finding {
                    level: Level::Warning,
                    code: "gpu_shared",
                    what: format!("backends {} and {} seem to be on one GPU ({})", one.id, other.id, device.name),
                    instead: format!("{ONE_PER_GPU}; if they are apart, say `gpu` of each in [[backends]]"),
                });
            }
        }
    }
    found
}

const ONE_PER_GPU: &str = "run one ComfyUI per GPU, told apart by `CUDA_VISIBLE_DEVICES`";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::BackendEndpoint;

    fn codes(looked: &Looked) -> Vec<&'static str> {
        of_one(looked).iter().map(|finding| finding.code).collect()
    }

    fn started(argv: &[&str]) -> Looked {
        let argv = ["main.py", "--preview-method", "auto"].iter().chain(argv).map(|text| (*text).to_owned()).collect();
        Looked { version: "0.28.0".to_owned(), argv, ..Looked::default() }
    }

    #[test]
    fn a_new_release_on_loopback_is_good() {
        assert_eq!(codes(&started(&[])), [""; 0]);
        assert_eq!(codes(&started(&["--listen", "127.0.0.1,::1"])), [""; 0]);
        assert_eq!(codes(&started(&["--listen=localhost"])), [""; 0]);
    }

    #[test]
    fn listening_for_others_is_a_problem_however_it_is_written() {
        for argv in [
            ["--listen"].as_slice(),
            &["--listen", "0.0.0.0"],
            &["--listen=127.0.0.1,192.168.1.5"],
            &["--listen", "--cpu"],
        ] {
            assert_eq!(codes(&started(argv)), ["listens_beyond_loopback"], "{argv:?}");
        }
        let exposed = Looked { reached: Reached::AlsoBy("192.168.1.5".parse().unwrap()), ..started(&["--listen"]) };
        assert_eq!(codes(&exposed), ["exposed"]);
        assert_eq!(codes(&Looked { reached: Reached::Remote, ..started(&["--listen", "10.0.0.2"]) }), ["remote"]);
    }

    #[test]
    fn what_weakens_a_comfyui_is_told() {
        assert_eq!(codes(&started(&["--enable-cors-header"])), ["cors"]);
        assert_eq!(codes(&started(&["--enable-cors-header", "https://x.example"])), ["cors"]);
        assert_eq!(codes(&started(&["--enable-manager"])), ["manager"]);
        assert_eq!(codes(&Looked { manager_answers: true, ..started(&[]) }), ["manager"]);
        assert_eq!(codes(&Looked { assets_answer: true, ..started(&[]) }), ["assets"]);
        assert_eq!(codes(&started(&["--multi-user"])), ["multi_user"]);
    }

    #[test]
    fn old_releases_are_named_with_their_vulnerabilities_and_the_release_that_has_none() {
        let found = of_one(&Looked { version: "0.27.9".to_owned(), ..started(&[]) });
        assert_eq!(found.len(), 1);
        assert!(
            found[0].what.contains("CVE-2026-56671") && !found[0].what.contains("CVE-2026-68771"),
            "{}",
            found[0].what
        );
        assert!(found[0].instead.contains("0.28.0"), "{}", found[0].instead);
        assert_eq!(codes(&Looked { version: "nightly".to_owned(), ..started(&[]) }), ["version"]);
    }

    #[test]
    fn previews_that_are_off_are_noted() {
        let without = |argv: &[&str]| Looked {
            version: "0.28.0".to_owned(),
            argv: argv.iter().map(|text| (*text).to_owned()).collect(),
            ..Looked::default()
        };
        assert_eq!(codes(&without(&["main.py"])), ["previews"]);
        assert_eq!(codes(&without(&["main.py", "--preview-method", "none"])), ["previews"]);
        assert_eq!(codes(&without(&["main.py", "--preview-method", "taesd"])), [""; 0]);
    }

    #[test]
    fn a_gpu_that_two_backends_name_is_told() {
        let backend = |id: &str, gpu: Option<GpuName>| {
            let endpoint = BackendEndpoint::parse("http://127.0.0.1:1").unwrap();
            BackendConfig { gpu, ..BackendConfig::new(id.parse().unwrap(), endpoint) }
        };
        let (a, b, c) =
            (backend("a", Some(GpuName::Index(0))), backend("b", Some(GpuName::Index(0))), backend("c", None));
        let of = |backends: &[&BackendConfig]| {
            let looks: Vec<_> = backends.iter().map(|backend| (*backend, Looked::default())).collect();
            of_all(&looks).len()
        };
        assert_eq!((of(&[&a, &b, &c]), of(&[&a, &c, &c]), of(&[])), (1, 0, 0));
    }

    #[test]
    fn nobody_there_is_a_problem_and_nothing_else_is_said() {
        let looked = Looked { unreachable: Some("refused".to_owned()), ..Looked::default() };
        assert_eq!(codes(&looked), ["unreachable"]);
    }
}
