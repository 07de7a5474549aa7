//! The pages of docs/: every configuration in them is accepted, every command line runs as it stands there, every link leads somewhere.

use comfygate_tests::gateway::{binary, fast, free_address, run_in, said};
use comfygate_tests::{StandIn, eventually, workflows};
use std::collections::BTreeSet;
use std::fs;
use std::future::ready;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// Pages whose commands and configurations are tried.
const PAGES: [&str; 6] = [
    "docs/protect-my-comfyui.md",
    "docs/identity.md",
    "docs/behind-a-cdn.md",
    "docs/operations.md",
    "docs/policies.md",
    "config/README.md",
];
/// Pages whose links are looked at, too.
const OTHER_PAGES: [&str; 8] = [
    "README.md",
    "ARCHITECTURE.md",
    "SECURITY.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "packaging/README.md",
    "docs/saas-quickstart.md",
    "docs/scheduling.md",
];
/// What the pages call besides `comfygate`: programs of the system, which a test has no business to run.
const NOT_RUN: [&str; 8] = ["cd", "cp", "curl", "docker", "mkdir", "rm", "sudo", "systemctl"];
/// Commands whose arguments are only read here: the first replaces the process, which `upgrade.rs` tests.
const ONLY_READ: [&str; 1] = ["upgrade"];
/// What the pages tell to run, all in all.
const TOLD: [&str; 18] = [
    "adopt",
    "backend",
    "backup",
    "check",
    "dead-letters",
    "doctor",
    "key",
    "policy",
    "refusals",
    "reload",
    "restore",
    "retention",
    "serve",
    "setup",
    "status",
    "support-bundle",
    "tenant",
    "usage",
];

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn text_of(page: &str) -> String {
    fs::read_to_string(repository(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

/// The fenced blocks of a language, in order.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let (mut found, mut open) = (Vec::new(), None::<(bool, String)>);
    for line in text_of(page).lines() {
        open = match (open, line.strip_prefix("```")) {
            (None, Some(named)) => Some((named == language, String::new())),
            (Some((wanted, block)), Some(_)) => {
                found.extend(wanted.then_some(block));
                None
            }
            (Some((wanted, block)), None) => Some((wanted, block + line + "\n")),
            (None, None) => None,
        };
    }
    found
}

/// Words of a shell line: quotes hold them together, ` #` ends it.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for letter in line.chars() {
        match letter {
            '"' => quoted = !quoted,
            '#' if !quoted && word.is_empty() => break,
            ' ' if !quoted => words.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
            '|' | '&' | ';' | '<' | '>' | '$' | '*' | '\\' if !quoted => panic!("only a shell understands `{line}`"),
            _ => word.push(letter),
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

/// A ComfyUI, its folder, and a directory in which the page's reader works.
struct Reader {
    directory: TempDir,
    stand_in: StandIn,
    served: Option<Child>,
    key_id: String,
}

impl Reader {
    async fn new() -> Reader {
        let directory = tempfile::Builder::new().prefix("comfygate-docs-").tempdir().unwrap();
        let workflows = directory.path().join("comfyui/user/default/workflows");
        fs::create_dir_all(&workflows).unwrap();
        fs::write(workflows.join("mine.json"), "{}").unwrap();
        fs::write(directory.path().join("workflow.json"), workflows::picture("docs", 64, 64).to_string()).unwrap();
        let stand_in = StandIn::start(fast()).await.unwrap();
        Reader { directory, stand_in, served: None, key_id: String::new() }
    }

    /// The page's words, with this machine's places in them.
    fn placed(&self, word: &str) -> String {
        match word {
            "ID" => self.key_id.clone(),
            // Nobody erases what is not there: the one tenant that `setup` makes.
            "acme" => "owner".to_owned(),
            "/srv/ComfyUI" => self.directory.path().join("comfyui").display().to_string(),
            _ => word.replace("http://127.0.0.1:8188", &self.stand_in.url()),
        }
    }

    async fn runs(&mut self, line: &str) {
        let arguments: Vec<String> = words(line)[1..].iter().map(|word| self.placed(word)).collect();
        let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match arguments[0] {
            "setup" => return self.sets_up(&arguments),
            "serve" => return self.serves(&arguments).await,
            only_read if ONLY_READ.contains(&only_read) => arguments.push("--help"),
            _ => {}
        }
        let output = run_in(self.directory.path(), &arguments);
        assert!(output.status.success(), "{line}\n{}", said(&output));
        if arguments.starts_with(&["key", "create"]) {
            let key = String::from_utf8(output.stdout).unwrap();
            self.key_id = key.trim().strip_prefix("cg_").unwrap()[..12].to_owned();
        }
    }

    /// Says yes. The usual ports may be taken here: the configuration is given others.
    fn sets_up(&self, arguments: &[&str]) {
        let mut command = Command::new(binary());
        command.args(arguments).current_dir(self.directory.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"y\n").unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        assert!(said(&output).contains("Your key, shown only now:"), "{}", said(&output));
        let config = self.directory.path().join("config/gateway.toml");
        let mut text = fs::read_to_string(&config).unwrap();
        for usual in ["127.0.0.1:8443", "127.0.0.1:9901"] {
            assert!(text.contains(usual), "{text}");
            text = text.replace(usual, &free_address().to_string());
        }
        fs::write(config, text).unwrap();
    }

    async fn serves(&mut self, arguments: &[&str]) {
        let mut command = Command::new(binary());
        command.args(arguments).current_dir(self.directory.path()).env_remove("COMFYGATE_CONFIG");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.served = Some(command.spawn().unwrap());
        let directory = self.directory.path();
        eventually("a job would run", || ready(run_in(directory, &["status"]).status.success().then_some(()))).await;
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(mut served) = self.served.take() {
            let _ = served.kill();
            let _ = served.wait();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_the_pages_runs_as_it_stands_there() {
    let mut told = BTreeSet::new();
    for page in PAGES {
        let lines: Vec<String> =
            blocks(page, "sh").iter().flat_map(|block| block.lines()).map(|line| line.trim().to_owned()).collect();
        let ours: Vec<&String> = lines
            .iter()
            .filter(|line| {
                let first = words(line).first().cloned().unwrap_or_default();
                assert!(
                    first == "comfygate" || first.is_empty() || NOT_RUN.contains(&first.as_str()),
                    "{page}: {line}"
                );
                first == "comfygate"
            })
            .collect();
        let mut reader = Reader::new().await;
        if !ours.iter().any(|line| line.starts_with("comfygate setup")) && !ours.is_empty() {
            reader.runs("comfygate setup --backend http://127.0.0.1:8188").await;
            reader.runs("comfygate serve").await;
        }
        for line in ours {
            reader.runs(line).await;
            told.insert(words(line)[1].clone());
        }
    }
    let wanted: BTreeSet<String> = TOLD.iter().chain(&ONLY_READ).map(|&name| name.to_owned()).collect();
    assert_eq!(told, wanted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_configuration_of_the_pages_is_accepted() {
    let reader = Reader::new().await;
    reader.sets_up(&["setup", "--backend", &reader.stand_in.url()]);
    let directory = reader.directory.path();
    fs::create_dir(directory.join("certs")).unwrap();
    fs::write(directory.join("oidc.secret"), "only-for-tests").unwrap();
    for name in ["gateway.crt", "gateway.key"] {
        fs::copy(directory.join("state/tls").join(name), directory.join("certs").join(name)).unwrap();
    }
    let mut checked = 0;
    for page in PAGES {
        let blocks = blocks(page, "toml");
        for (number, block) in blocks.iter().enumerate() {
            let block = block.replace("/run/comfygate", &directory.display().to_string());
            let arguments: &[&str] = match block.lines().next().unwrap_or_default() {
                "# gateway.toml" => {
                    let tenants = blocks.get(number + 1).filter(|next| next.starts_with("# tenants.toml\n"));
                    fs::write(directory.join("gateway.toml"), &block).unwrap();
                    fs::write(directory.join("tenants.toml"), tenants.map_or("", String::as_str)).unwrap();
                    &["check", "--config", "gateway.toml"]
                }
                "# owner.toml" => {
                    fs::write(directory.join("owner.toml"), &block).unwrap();
                    &["policy", "check", "--policy", "owner.toml", "workflow.json"]
                }
                "# mine.toml" => {
                    fs::write(directory.join("mine.toml"), &block).unwrap();
                    &["policy", "check", "--policy", "mine.toml", "workflow.json"]
                }
                // It was written with the file before it.
                "# tenants.toml" => continue,
                other => panic!("{page}: `{other}` does not say which file this is"),
            };
            let output = run_in(directory, arguments);
            assert!(output.status.success(), "{page}, block {number}:\n{}", said(&output));
            checked += 1;
        }
    }
    assert!(checked >= 8, "only {checked} files were found");
}

/// The name by which a heading is linked to: small letters, no punctuation, hyphens for spaces.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    kept.chars()
        .filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter))
        .collect::<String>()
        .replace(' ', "-")
}

#[test]
fn every_link_of_the_pages_leads_to_a_file_and_heading_that_is_there() {
    let mut followed = 0;
    for page in PAGES.iter().chain(&OTHER_PAGES) {
        let text = text_of(page);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let folder = repository(page).parent().unwrap().to_owned();
            let target = if path.is_empty() { repository(page) } else { folder.join(path) };
            assert!(target.exists(), "{page}: {link}");
            if !heading.is_empty() {
                let there = fs::read_to_string(&target).unwrap();
                let found = there.lines().any(|line| line.starts_with('#') && anchor(line) == heading);
                assert!(found, "{page}: {link}");
            }
            followed += 1;
        }
    }
    assert!(followed > 30, "only {followed} links were found");
}
