use super::*;
use crate::config::reader::read_file;
use std::collections::BTreeSet;
use toml::de::{DeTable, DeValue};

/// A directory with files, in which a configuration is loaded.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn with(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Self { dir }
    }

    fn load(&self, flag: Option<&str>, environment: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Vec<String>> {
        let surroundings = Surroundings {
            current_dir: self.dir.path().to_owned(),
            environment,
            system_file: self.dir.path().join("etc/gateway.toml"),
        };
        let shown = |fault: &Fault| fault.to_string().replace(self.dir.path().to_str().unwrap(), "DIR");
        Config::load_in(&surroundings, flag.map(Path::new)).map_err(|faults| faults.errors.iter().map(shown).collect())
    }
}

fn no_environment(_: &str) -> Option<String> {
    None
}

/// Loads `text` as `config/gateway.toml`.
fn load(text: &str) -> Result<Loaded, Vec<String>> {
    Place::with(&[("config/gateway.toml", text)]).load(None, &no_environment)
}

fn only_error(text: &str) -> String {
    let errors = load(text).unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:#?}");
    errors.into_iter().next().unwrap()
}

#[test]
fn without_a_file_the_built_in_defaults_hold() {
    let place = Place::with(&[]);
    let config = place.load(None, &no_environment).unwrap().config;
    assert_eq!(config.listen, [ListenConfig::new(loopback(8443), ListenKind::Tls(CertificateConfig::Made))]);
    assert_eq!(config.metrics_address, "127.0.0.1:9901".parse().unwrap());
    assert_eq!(config.backends[0].endpoint.to_string(), "http://127.0.0.1:8188");
    assert_eq!(config.state_dir, place.dir.path().join("state"));
    assert!(config.tenants.tenant(&"local".parse().unwrap()).is_some());
}

#[test]
fn an_empty_file_means_the_same_as_none() {
    let (empty, none) = (load("").unwrap().config, Place::with(&[]).load(None, &no_environment).unwrap().config);
    assert_eq!(
        (empty.listen, empty.limits, empty.dispatch, empty.audit),
        (none.listen, none.limits, none.dispatch, none.audit)
    );
}

#[test]
fn sessions_last_and_are_as_many_as_the_file_says_within_bounds() {
    let given = load("[sessions]\nidle_timeout = \"5m\"\nlifetime = \"5m\"\nper_owner_max = 1\ntotal_max = 1").unwrap();
    let sessions = given.config.sessions;
    assert_eq!((sessions.idle_timeout, sessions.lifetime), (Duration::from_secs(300), Duration::from_secs(300)));
    assert_eq!((sessions.per_owner_max, sessions.total_max), (1, 1));
    for outside in ["idle_timeout = \"4m\"", "lifetime = \"91d\"", "per_owner_max = 0", "total_max = 1000001"] {
        assert!(only_error(&format!("[sessions]\n{outside}")).contains("sessions."), "{outside}");
    }
    let longer = only_error("[sessions]\nidle_timeout = \"6m\"\nlifetime = \"5m\"");
    assert!(longer.contains("sessions.idle_timeout") && longer.contains("at most `lifetime`"), "{longer}");
}

#[test]
fn the_file_is_looked_for_in_the_stated_order() {
    let place =
        Place::with(&[("flag.toml", ""), ("env.toml", ""), ("config/gateway.toml", ""), ("etc/gateway.toml", "")]);
    let environment = |name: &str| (name == "COMFYGATE_CONFIG").then(|| "env.toml".to_owned());
    let file = |flag, environment: &dyn Fn(&str) -> Option<String>| {
        place.load(flag, environment).unwrap().config.file.unwrap()
    };
    assert!(file(Some("flag.toml"), &environment).ends_with("flag.toml"));
    assert!(file(None, &environment).ends_with("env.toml"));
    assert!(file(None, &no_environment).ends_with("config/gateway.toml"));
    std::fs::remove_file(place.dir.path().join("config/gateway.toml")).unwrap();
    assert!(file(None, &no_environment).ends_with("etc/gateway.toml"));
}

#[test]
fn a_named_file_that_is_missing_is_an_error_and_nothing_else_is_tried() {
    let place = Place::with(&[("config/gateway.toml", "")]);
    assert!(place.load(Some("other.toml"), &no_environment).unwrap_err()[0].contains("can't read `DIR/other.toml`"));
    assert!(place.load(None, &|_| Some("other.toml".to_owned())).is_err());
}

#[test]
fn the_state_directory_is_the_first_of_systemds() {
    let place = Place::with(&[]);
    let environment = |name: &str| (name == "STATE_DIRECTORY").then(|| "/var/lib/a:/var/lib/b".to_owned());
    assert_eq!(place.load(None, &environment).unwrap().config.state_dir, Path::new("/var/lib/a"));
}

#[test]
fn the_state_directory_alone_is_read_whatever_else_is_wrong() {
    let alone = |text: &str, environment: &dyn Fn(&str) -> Option<String>| {
        let place = Place::with(&[("config/gateway.toml", text)]);
        let surroundings = Surroundings {
            current_dir: place.dir.path().to_owned(),
            environment,
            system_file: place.dir.path().join("etc/gateway.toml"),
        };
        let shown = |found: PathBuf| found.strip_prefix(place.dir.path()).map_or(found.clone(), Path::to_owned);
        Config::state_dir_alone_in(&surroundings, None).map(shown)
    };
    let faulty =
        "nonsense = 1\n[state]\ndir = \"here\"\nfree_space_min = \"much\"\n[[jwt]]\nsecret = \"env:NOT_SET\"\n";
    assert!(load(faulty).is_err());
    assert_eq!(alone(faulty, &no_environment).unwrap(), Path::new("here"));
    assert_eq!(alone("nonsense = 1\n", &no_environment).unwrap(), Path::new("state"));
    let systemd = |name: &str| (name == "STATE_DIRECTORY").then(|| "/var/lib/a".to_owned());
    assert_eq!(alone("nonsense = 1\n", &systemd).unwrap(), Path::new("/var/lib/a"));
    for lost in ["[state]\ndir = 5\n", "state = 1\n", "[state\ndir = \"here\"\n", "= 1\n[state]\ndir = \"here\"\n"] {
        assert!(alone(lost, &no_environment).is_err(), "{lost}");
    }
}

#[test]
fn faults_of_all_files_are_told_at_once() {
    let gateway = "[tenants]\nfile = \"t.toml\"\n[[backends]]\nid = \"A\"\nurl = \"ftp://x\"\n";
    let tenants = "[[plan]]\nid = \"p\"\npolicy = \"p.toml\"\n[[tenant]]\nid = \"a\"\nplan = \"q\"\nwait = 1\n";
    let place = Place::with(&[("config/gateway.toml", gateway), ("t.toml", tenants)]);
    let found = place.load(None, &no_environment).unwrap_err();
    let starts: Vec<_> = found.iter().map(|fault| fault.split("`:").next().unwrap()).collect();
    let expected = [
        "DIR/config/gateway.toml:4:6: `backends[0].id",
        "DIR/config/gateway.toml:5:7: `backends[0].url",
        "DIR/t.toml:3:10: `plan[0].policy",
        "DIR/t.toml:6:8: `tenant[0].plan",
        "DIR/t.toml:7:1: `tenant[0].wait",
    ];
    assert_eq!(starts, expected);
}

#[test]
fn a_fault_of_a_policy_is_told_at_its_own_place() {
    let gateway = "[tenants]\nfile = \"t.toml\"\n";
    let tenants = "[[plan]]\nid = \"p\"\npolicy = \"p.toml\"\n[[tenant]]\nid = \"a\"\nplan = \"p\"\n";
    let place = Place::with(&[("config/gateway.toml", gateway), ("t.toml", tenants), ("p.toml", "\nnonsense = 1\n")]);
    let found = place.load(None, &no_environment).unwrap_err();
    assert!(found.iter().any(|fault| fault.starts_with("DIR/p.toml:2:1: ")), "{found:#?}");
    assert!(found.iter().all(|fault| fault.starts_with("DIR/p.toml:")), "{found:#?}");
}

#[test]
fn a_table_of_costs_holds_for_every_policy_and_a_faulty_one_is_told() {
    let shipped = include_str!("../../../policies/documents/costs.toml");
    let gateway = "[tenants]\nfile = \"t.toml\"\n";
    let plans = "[[plan]]\nid = \"p\"\n[[plan]]\nid = \"q\"\npolicy = \"strict\"\n[[tenant]]\nid = \"a\"\nplan = \"p\"\n[[tenant]]\nid = \"b\"\nplan = \"q\"\n";
    let digests = |first: &str, costs: &str| {
        let tenants = format!("{first}{plans}");
        let files = [("config/gateway.toml", gateway), ("t.toml", tenants.as_str()), ("costs.toml", costs)];
        let config = Place::with(&files).load(None, &no_environment).map(|loaded| loaded.config);
        let of = |config: &Config, id: &str| config.tenants.tenant(&id.parse().unwrap()).unwrap().policy.digest();
        config.map(|config| ["a", "b"].map(|id| of(&config, id)))
    };
    let own = "costs = \"costs.toml\"\n";
    let (plain, named) = (digests("", "").unwrap(), digests("costs = \"default\"\n", "").unwrap());
    assert_eq!(plain, named);
    let corrected = digests(own, &shipped.replace("decode = 1.5", "decode = 1.75")).unwrap();
    assert!(plain[0] != corrected[0] && plain[1] != corrected[1], "a verdict follows from the costs too");
    let faults = digests(own, &shipped.replace("decode = 1.5", "decode = -1")).unwrap_err();
    assert!(faults.len() == 1 && faults[0].starts_with("DIR/t.toml:1:9: `costs`: "), "{faults:?}");
    assert!(digests("costs = \"none.toml\"\n", "").unwrap_err()[0].contains("can't read"));
}

#[test]
fn one_port_serves_one_listener() {
    let two =
        |first: &str, second: &str| format!("[[listen]]\naddress = \"{first}\"\n[[listen]]\naddress = \"{second}\"\n");
    assert!(load(&two("127.0.0.1:1001", "127.0.0.1:1002")).is_ok());
    assert!(load(&two("127.0.0.1:0", "127.0.0.1:0")).is_ok());
    assert!(load(&two("127.0.0.1:1001", "127.0.0.2:1001")).is_ok());
    assert!(
        only_error(&two("127.0.0.1:1001", "127.0.0.1:1001")).contains("`listen[1].address`: `127.0.0.1:1001` is taken")
    );
    assert!(only_error(&two("0.0.0.0:1001", "127.0.0.1:1001")).contains("is taken by `0.0.0.0:1001`"));
    assert!(
        only_error(&two("127.0.0.1:9901", "127.0.0.1:1")).contains("`listen[0].address`: `127.0.0.1:9901` is taken")
    );
}

#[test]
fn a_redirect_has_no_certificate_and_is_not_alone() {
    let redirect = "[[listen]]\naddress = \"127.0.0.1:1\"\nredirect = true\n";
    assert!(only_error(redirect).contains("every [[listen]] only redirects"));
    let with_tls = "[[listen]]\naddress = \"127.0.0.1:2\"\n";
    let config = load(&format!("{redirect}{with_tls}")).unwrap().config;
    assert_eq!(config.listen[0].kind, ListenKind::Redirect);
    let both = format!("{with_tls}{redirect}tls = {{ certificate = \"c\", key = \"k\" }}\n");
    assert!(only_error(&both).contains("`listen[1].redirect`: a redirect speaks plain HTTP"));
}

#[test]
fn a_certificate_and_its_key_are_read_and_must_belong_together() {
    let made = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let (a, b) = (made("a"), made("b"));
    let listen = "[[listen]]\naddress = \"127.0.0.1:1\"\ntls = { certificate = \"c.pem\", key = \"k.pem\" }\n";
    let load = |certificate: &str, key: &str| {
        Place::with(&[("config/gateway.toml", listen), ("c.pem", certificate), ("k.pem", key)])
            .load(None, &no_environment)
    };
    let config = load(&a.cert.pem(), &a.signing_key.serialize_pem()).unwrap().config;
    assert!(
        matches!(&config.listen[0].kind, ListenKind::Tls(CertificateConfig::Files { key, .. }) if key.is_absolute())
    );
    let found = load(&a.cert.pem(), &b.signing_key.serialize_pem()).unwrap_err();
    assert!(found[0].contains("`listen[0].tls.key`: key and certificate do not go together"), "{found:#?}");
    let found = load("nothing", "nothing").unwrap_err();
    assert!(found.len() == 2 && found[0].contains("holds no PEM certificate"), "{found:#?}");
    let found = Place::with(&[("config/gateway.toml", listen)]).load(None, &no_environment).unwrap_err();
    assert!(
        found[0].starts_with("DIR/config/gateway.toml:3:23: `listen[0].tls.certificate`: can't read `DIR/c.pem`"),
        "{found:#?}"
    );
}

#[test]
fn backends_are_named_once_and_addressed_once() {
    let two = |id: &str, url: &str| {
        format!(
            "[[backends]]\nid = \"a\"\nurl = \"http://127.0.0.1:1\"\n[[backends]]\nid = \"{id}\"\nurl = \"{url}\"\n"
        )
    };
    assert_eq!(load(&two("b", "http://127.0.0.1:2")).unwrap().config.backends.len(), 2);
    assert!(
        only_error(&two("a", "http://127.0.0.1:2")).contains("`backends[1].id`: `a` is a backend already (line 2)")
    );
    assert!(
        only_error(&two("b", "http://127.0.0.1:1/"))
            .contains("`backends[1].url`: `http://127.0.0.1:1` is a backend already")
    );
}

/// One backend with these lines.
fn backend(lines: &str) -> String {
    format!("[[backends]]\nid = \"a\"\n{lines}\n")
}

#[test]
fn an_https_backend_names_the_ca_that_it_is_trusted_by() {
    let made = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
    let load = |lines: &str| {
        let files = [("config/gateway.toml", &*backend(lines)), ("ca.pem", &made.cert.pem())];
        Place::with(&files).load(None, &no_environment)
    };
    let endpoint = load("url = \"https://x/comfy\"\nca = \"ca.pem\"").unwrap().config.backends[0].endpoint.clone();
    assert_eq!(endpoint.to_string(), "https://x:443/comfy");
    assert!(load("url = \"https://x\"").unwrap_err()[0].contains("`backends[0].url`: an https backend needs `ca`"));
    assert!(load("url = \"https://x\"\nca = \"none.pem\"").unwrap_err()[0].contains("can't read `DIR/none.pem`"));
    let named = load("url = \"https://x\"\nca = \"ca.pem\"\nserver_name = \"a b\"").unwrap_err();
    assert!(named[0].contains("`backends[0].server_name`: `a b` is neither"), "{named:?}");
    for key in ["ca", "server_name", "client_certificate", "client_key"] {
        let found = load(&format!("url = \"http://127.0.0.1:1\"\n{key} = \"x\"")).unwrap_err();
        assert!(found[0].contains(&format!("`backends[0].{key}`: means something for `https://`")), "{found:?}");
    }
}

#[test]
fn our_certificate_for_a_backend_comes_with_its_key() {
    let made = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let (a, b) = (made("a"), made("b"));
    let load = |lines: &str| {
        let text = backend(&format!("url = \"https://x\"\nca = \"a.pem\"\n{lines}"));
        let (certificate, key, other) = (a.cert.pem(), a.signing_key.serialize_pem(), b.signing_key.serialize_pem());
        let files = [("config/gateway.toml", &*text), ("a.pem", &certificate), ("a.key", &key), ("b.key", &other)];
        Place::with(&files).load(None, &no_environment)
    };
    assert!(load("client_certificate = \"a.pem\"\nclient_key = \"a.key\"").is_ok());
    let found = load("client_certificate = \"a.pem\"\nclient_key = \"b.key\"").unwrap_err();
    assert!(found[0].contains("`backends[0].client_key`: key and certificate do not go together"), "{found:?}");
    for alone in ["client_certificate = \"a.pem\"", "client_key = \"a.key\""] {
        assert!(load(alone).unwrap_err()[0].contains("need each other"));
    }
}

#[test]
fn a_fixed_header_is_a_reference_to_a_secret_and_frames_nothing() {
    let load = |headers: &str| {
        let text = backend(&format!("url = \"unix:/run/c.sock\"\nheaders = {{ {headers} }}"));
        let environment = |name: &str| (name == "K").then(|| "hunter2".to_owned());
        Place::with(&[("config/gateway.toml", &text), ("k", "hunter3\n")]).load(None, &environment)
    };
    let config = load("X-Backend-Key = \"env:K\", X-Other = \"file:k\"").unwrap().config;
    let headers = config.backends[0].endpoint.headers();
    assert_eq!(
        (&headers["x-backend-key"], &headers["x-other"]),
        (&"hunter2".parse().unwrap(), &"hunter3".parse().unwrap())
    );
    let shown = format!("{config:?}");
    assert!(!shown.contains("hunter"), "{shown}");
    let plain = load("X-Backend-Key = \"hunter2\"").unwrap_err();
    assert!(plain[0].contains("`backends[0].headers.X-Backend-Key`: a secret is written as a reference"), "{plain:?}");
    assert!(!plain[0].contains("hunter2"));
    assert!(load("Host = \"env:K\"").unwrap_err()[0].contains("`host` is a header that the gateway writes itself"));
    assert!(load("X-Backend-Key = \"env:NONE\"").unwrap_err()[0].contains("`NONE` is not set"));
}

#[test]
fn two_backends_that_are_one_process_or_share_a_gpu_are_a_warning() {
    let warnings = |second: &str| {
        let text = format!(
            "[[backends]]\nid = \"a\"\nurl = \"http://127.0.0.1:1\"\ngpu = 0\n[[backends]]\nid = \"b\"\n{second}\n"
        );
        load(&text).unwrap().warnings.iter().map(Fault::message).collect::<Vec<_>>()
    };
    assert_eq!(warnings("url = \"http://127.0.0.1:2\"\ngpu = 1"), Vec::<String>::new());
    assert_eq!(warnings("url = \"http://127.0.0.2:1\"\ngpu = 1"), Vec::<String>::new());
    assert_eq!(warnings("url = \"http://127.0.0.1:1/other\"\ngpu = 1"), Vec::<String>::new());
    let same = warnings("url = \"http://localhost:1\"");
    assert!(
        same.len() == 1 && same[0].contains("seems to be the same process as `http://127.0.0.1:1` (line 3)"),
        "{same:?}"
    );
    let shared = warnings("url = \"http://127.0.0.1:2\"\ngpu = 0");
    assert!(shared.len() == 1 && shared[0].contains("another backend has this GPU already (line 4)"), "{shared:?}");
}

#[test]
fn a_canary_is_sent_at_most_every_second_or_never() {
    let interval = |text: &str| load(&format!("[dispatch]\ncanary_interval = \"{text}\"\n"));
    assert_eq!(interval("0s").unwrap().config.dispatch.canary_interval, Duration::ZERO);
    assert_eq!(interval("1s").unwrap().config.dispatch.canary_interval, Duration::from_secs(1));
    assert!(interval("999ms").unwrap_err()[0].contains("`dispatch.canary_interval`: is out of range"));
}

#[test]
fn a_backend_beyond_loopback_is_a_warning() {
    let warnings =
        |host: &str| load(&format!("[[backends]]\nid = \"a\"\nurl = \"http://{host}:1\"\n")).unwrap().warnings.len();
    assert_eq!([warnings("127.0.0.1"), warnings("localhost"), warnings("[::1]"), warnings("10.0.0.1")], [0, 0, 0, 1]);
}

#[test]
fn whoever_trusts_its_packs_has_a_pool_of_its_own() {
    let faults = |gateway: &str, tenants: &str| {
        let plans = "[[plan]]\nid = \"mine\"\npolicy = \"owner\"\n[[plan]]\nid = \"theirs\"\n";
        let gateway =
            format!("[tenants]\nfile = \"t.toml\"\n[[backends]]\nid = \"a\"\nurl = \"http://127.0.0.1:1\"\n{gateway}");
        let files = Place::with(&[("g.toml", &gateway), ("t.toml", &format!("{plans}{tenants}"))]);
        files.load(Some("g.toml"), &no_environment).err().unwrap_or_default().join("\n")
    };
    let owner = "[[tenant]]\nid = \"me\"\nplan = \"mine\"\n";
    let other = "[[tenant]]\nid = \"they\"\nplan = \"theirs\"\n";
    assert_eq!(faults("", owner), "");
    assert_eq!(faults("", &format!("{other}[[tenant]]\nid = \"those\"\nplan = \"theirs\"\n")), "");
    assert!(faults("", &format!("{owner}{other}")).contains("tenants `me` and `they` share the pool `default`"));
    assert!(faults("", &format!("{owner}[[tenant]]\nid = \"me2\"\nplan = \"mine\"\n")).contains("share the pool"));
    let apart = format!("{owner}pool = \"mine\"\n{other}");
    assert!(faults("", &apart).contains("tenant `me` is in the pool `mine`, which has no backend"));
    assert_eq!(faults("[[backends]]\nid = \"b\"\nurl = \"http://127.0.0.1:2\"\npool = \"mine\"\n", &apart), "");
}

#[test]
fn a_gpu_is_an_index_or_a_uuid() {
    let gpu = |text: &str| {
        load(&format!("[[backends]]\nid = \"a\"\nurl = \"http://127.0.0.1:1\"\ngpu = {text}\n"))
            .map(|loaded| loaded.config.backends[0].gpu.clone())
    };
    assert_eq!(gpu("1").unwrap(), Some(GpuName::Index(1)));
    let uuid = "GPU-4b3f9f2e-6f3c-4b5e-9d58-3e0f1c1d2a3b";
    assert_eq!(gpu(&format!("\"{uuid}\"")).unwrap(), Some(GpuName::Uuid(uuid.to_owned())));
    assert!(gpu("1024").is_err() && gpu("\"first\"").is_err() && gpu("-1").is_err());
}

#[test]
fn a_public_url_is_https_host_port_and_a_plain_path() {
    for url in ["https://x.example", "https://x.example/", "https://x.example:8443", "https://[::1]:1"] {
        assert!(url.parse::<PublicUrl>().is_ok(), "{url}");
    }
    assert_eq!("https://x/".parse::<PublicUrl>().unwrap().as_str(), "https://x");
    for url in [
        "http://x",
        "https://",
        "https://x//",
        "https://x//y",
        "https://u@x",
        "https://x?y",
        "https://x:0",
        "https://x:",
        "x",
    ] {
        assert!(url.parse::<PublicUrl>().is_err(), "{url}");
    }
    for path in ["a/../b", ".", "a%20b", "a;b", "a b", "a?b", "a#b", "\u{e9}", &"a".repeat(128)] {
        assert!(format!("https://x/{path}").parse::<PublicUrl>().is_err(), "{path}");
    }
    assert!(format!("https://x/{}", "a".repeat(127)).parse::<PublicUrl>().is_ok());
    let parts = |url: &str| {
        let url = url.parse::<PublicUrl>().unwrap();
        (url.origin().to_owned(), url.path().to_owned(), url.host().to_owned())
    };
    let text = |origin: &str, path: &str, host: &str| (origin.to_owned(), path.to_owned(), host.to_owned());
    assert_eq!(parts("https://x.example"), text("https://x.example", "", "x.example"));
    assert_eq!(parts("https://x.example:8/comfy/"), text("https://x.example:8", "/comfy", "x.example"));
    assert_eq!(parts("https://[::1]:8/a/b.c"), text("https://[::1]:8", "/a/b.c", "[::1]"));
}

#[test]
fn what_is_not_built_yet_is_refused_with_that_reason() {
    assert!(only_error("redis = 1\n").contains("is not built yet"));
    assert!(only_error("[dispatch]\nresults = \"leave\"\n").contains("`leave` is not built yet"));
}

#[test]
fn how_many_failed_logins_are_free_is_a_count_and_its_old_name_tells_the_new_one() {
    let free = |text: &str| load(text).unwrap().config.limits.failed_logins_free;
    assert_eq!(free(""), 10);
    assert_eq!(free("[limits]\nfailed_logins_free = 1"), 1);
    let fault = |text: &str| load(text).unwrap_err().remove(0);
    assert!(fault("[limits]\nfailed_logins_free = 0").contains("failed_logins_free"));
    assert!(fault("[limits]\nfailed_logins_per_minute = 10").contains("write `failed_logins_free`"));
}

#[test]
fn one_body_may_have_the_whole_budget_and_no_more() {
    let limits = |prompt: &str| format!("[limits]\nbodies_bytes_max = \"16MiB\"\nprompt_bytes_max = \"{prompt}\"\n");
    assert!(load(&limits("16MiB")).is_ok());
    assert!(only_error(&limits("17MiB")).contains("raise `bodies_bytes_max`"));
}

const HS256: &str = "[[jwt]]\nissuer = \"i\"\naudience = \"a\"\ntenant_claim = \"t\"\n";

#[test]
fn an_hs256_secret_has_32_bytes_or_more_and_is_a_reference() {
    let config = format!("{HS256}algorithms = [\"HS256\"]\nsecret = \"env:S\"\n");
    let load = |secret: &str| {
        Place::with(&[("config/gateway.toml", &config)]).load(None, &|name| (name == "S").then(|| secret.to_owned()))
    };
    assert_eq!(load(&"x".repeat(32)).unwrap().config.jwt[0].user_claim.as_str(), "sub");
    assert!(load(&"x".repeat(31)).unwrap_err()[0].contains("at least 32 bytes, this has 31"));
    let plain = only_error(&config.replace("env:S", "hunter2hunter2hunter2hunter2hunter2"));
    assert!(plain.contains("written as a reference") && !plain.contains("hunter2"), "{plain}");
}

#[test]
fn an_issuer_has_one_algorithm_and_the_key_that_belongs_to_it() {
    assert!(
        only_error(&format!("{HS256}algorithms = [\"RS256\", \"ES256\"]\nkey_file = \"k\"\n"))
            .contains("2 algorithms for one key")
    );
    assert!(
        only_error(&format!("{HS256}algorithms = [\"none\"]\nkey_file = \"k\"\n")).contains("`none` is no algorithm")
    );
    assert!(
        only_error(&format!("{HS256}algorithms = [\"HS256\"]\nkey_file = \"k\"\n"))
            .contains("HS256 does not use this key")
    );
    assert!(
        only_error(&format!("{HS256}algorithms = [\"ES256\"]\nsecret = \"env:S\"\n"))
            .contains("ES256 does not use this key")
    );
    assert!(only_error(&format!("{HS256}algorithms = [\"ES256\"]\n")).contains("an issuer needs its key"));
}

#[test]
fn a_key_set_has_an_https_address_and_algorithms_of_public_keys() {
    let set = |lines: &str| format!("{HS256}{lines}\n");
    let good = load(&set("algorithms = [\"RS256\", \"ES256\", \"EdDSA\"]\njwks_url = \"https://x/k\"")).unwrap();
    let IssuerKeys::Published(published) = &good.config.jwt[0].keys else { panic!("no key set") };
    assert_eq!(
        (published.algorithms.len(), published.refresh, published.stale_max),
        (3, JwksConfig::REFRESH, JwksConfig::STALE_MAX)
    );
    let url = "jwks_url = \"https://x/k\"";
    for (lines, fault) in [
        (
            "algorithms = [\"RS256\"]\njwks_url = \"http://id.example/k\"".to_owned(),
            "is plain http, which is for this machine only",
        ),
        (format!("algorithms = [\"RS256\", \"HS256\"]\n{url}"), "a shared secret is never published"),
        (format!("algorithms = [\"RS256\", \"RS256\"]\n{url}"), "stands here twice"),
        (format!("algorithms = []\n{url}"), "`algorithms` is empty"),
        (format!("algorithms = [\"none\"]\n{url}"), "`none` is no algorithm"),
        (format!("algorithms = [\"RS256\"]\n{url}\nkey_file = \"k\""), "one source of keys"),
        (format!("algorithms = [\"RS256\"]\n{url}\njwks_ca = \"none.pem\""), "can't read"),
        (
            "algorithms = [\"RS256\"]\njwks_url = \"http://localhost/k\"\njwks_ca = \"c\"".to_owned(),
            "plain http shows no certificate",
        ),
        ("algorithms = [\"RS256\"]\njwks_refresh = \"1m\"\nkey_file = \"k\"".to_owned(), "belongs to `jwks_url`"),
        (format!("algorithms = [\"RS256\"]\n{url}\njwks_refresh = \"59s\""), "out of range"),
        (format!("algorithms = [\"RS256\"]\n{url}\njwks_stale_max = \"8d\""), "out of range"),
        (format!("algorithms = [\"RS256\"]\n{url}\njwks_refresh = \"1h\"\njwks_stale_max = \"59m\""), "too old before"),
    ] {
        let found = only_error(&set(&lines));
        assert!(found.contains(fault), "{lines}: {found}");
    }
    let edges = format!("algorithms = [\"RS256\"]\n{url}\njwks_refresh = \"1h\"\njwks_stale_max = \"1h\"");
    assert!(load(&set(&edges)).is_ok());
}

#[test]
fn tenants_are_made_on_plans_that_are_there() {
    let issuer = |lines: &str| {
        format!("{HS256}algorithms = [\"RS256\"]\njwks_url = \"https://x/k\"\nunknown_tenant = \"create\"\n{lines}\n")
    };
    let made = |lines: &str| load(&issuer(lines)).unwrap().config.jwt[0].unknown_tenant.clone();
    let UnknownTenant::Create(plain) = made("create_plan = \"default\"") else { panic!("refused") };
    assert_eq!((plain.plan.as_str(), plain.plan_claim), ("default", None));
    assert!(matches!(
        made("create_plan = \"default\"\nplan_claim = \"/app/plan\"\nplans_from_claim = [\"default\"]"),
        UnknownTenant::Create(CreateConfig { plan_claim: Some(_), .. })
    ));
    assert!(only_error(&issuer("")).contains("needs `create_plan`"));
    assert!(only_error(&issuer("create_plan = \"defualt\"")).contains("did you mean `default`?"));
    let claim = "create_plan = \"default\"\nplan_claim = \"p\"\n";
    assert!(only_error(&issuer(claim)).contains("no plan may be chosen by it"));
    assert!(
        only_error(&issuer(&format!("{claim}plans_from_claim = [\"gold\"]"))).contains("no plan has the id `gold`")
    );
    assert!(
        only_error(&issuer("create_plan = \"default\"\nplans_from_claim = [\"default\"]")).contains("set `plan_claim`")
    );
    let refuse = issuer("create_plan = \"default\"").replace("\"create\"", "\"refuse\"");
    assert!(only_error(&refuse).contains("belongs to `unknown_tenant = \"create\"`"));
    assert!(
        only_error(&issuer("create_plan = \"default\"").replace("\"t\"", "\"/t~2\"")).contains("in a JSON pointer")
    );
}

#[test]
fn tenants_are_made_on_no_plan_of_an_owner_and_on_none_without_backend() {
    let backends = "[[backends]]\nid = \"a\"\nurl = \"http://127.0.0.1:1\"\n[[backends]]\nid = \"b\"\nurl = \"http://127.0.0.1:2\"\npool = \"mine\"\n";
    let gateway = |plan: &str| {
        format!(
            "{backends}[tenants]\nfile = \"t.toml\"\n{HS256}algorithms = [\"RS256\"]\njwks_url = \"https://x/k\"\nunknown_tenant = \"create\"\ncreate_plan = \"{plan}\"\n"
        )
    };
    let tenants = "[[plan]]\nid = \"plain\"\n[[plan]]\nid = \"owners\"\npolicy = \"owner\"\npool = \"mine\"\n[[plan]]\nid = \"guests\"\npool = \"mine\"\n[[plan]]\nid = \"nowhere\"\npool = \"none\"\n[[tenant]]\nid = \"me\"\nplan = \"owners\"\n";
    let load = |plan: &str| {
        Place::with(&[("config/gateway.toml", &gateway(plan)), ("t.toml", tenants)]).load(None, &no_environment)
    };
    assert!(load("plain").is_ok());
    for plan in ["owners", "guests"] {
        assert!(load(plan).unwrap_err()[0].contains("has the owner posture, or shares the pool"), "{plan}");
    }
    assert!(load("nowhere").unwrap_err()[0].contains("is in the pool `none`, which has no backend"));
}

/// A good provider with these further lines.
fn provider(lines: &str) -> String {
    format!(
        "public_url = \"https://gate.example\"\n[[oidc]]\nid = \"studio\"\nissuer = \"https://id.example/a\"\nclient_id = \"gate\"\n{lines}\n"
    )
}

/// A good provider with these further lines, as used.
pub(crate) fn oidc_config(lines: &str) -> OidcConfig {
    load(&provider(lines)).unwrap().config.oidc.remove(0)
}

#[test]
fn the_digest_of_a_providers_rules_changes_with_each_rule_and_with_nothing_else() {
    let rules = |lines: &str| oidc_config(lines).rules();
    let claim = "tenant_claim = \"org\"";
    let known = rules(claim);
    for same in
        ["name = \"Studio\"", "session_max = \"2h\"", "automatic = true", "prompt = \"login\"", "leeway = \"5s\""]
    {
        assert_eq!(rules(&format!("{claim}\n{same}")), known, "{same}");
    }
    let mut all = vec![known];
    for other in [
        "require = { groups = [\"a\"] }",
        "require = { groups = [\"a\", \"b\"] }",
        "require = { group = [\"a\"] }",
        "user_claim = \"name\"",
        "scope_claim = \"rights\"",
    ] {
        all.push(rules(&format!("{claim}\n{other}")));
    }
    all.extend([rules("tenant = \"local\""), rules("tenant_claim = \"org_id\"")]);
    let mut config = oidc_config(claim);
    config.client_id = "other".to_owned();
    all.push(config.rules());
    config.issuer = "https://other.example".to_owned();
    all.push(config.rules());
    for (n, one) in all.iter().enumerate() {
        assert!(!all[n + 1..].contains(one), "{n}");
    }
    // Sessions keep it: another value at an upgrade has all of them renewed at once.
    assert_eq!(known.to_string(), "47d16cfa83141f28638e3a911678b2bf3c83e56c82373f469d644f948fabc72b");
}

#[test]
fn whoever_relies_on_an_address_of_mail_says_where_it_was_verified() {
    let verified = |lines: &str| oidc_config(lines).verified_by().collect::<Vec<_>>();
    for (lines, by) in [
        ("tenant = \"local\"", vec![]),
        ("tenant = \"local\"\nuser_claim = \"email\"", vec!["/email_verified"]),
        ("tenant = \"local\"\nuser_claim = \"/email\"", vec!["/email_verified"]),
        ("tenant = \"local\"\nuser_claim = \"/user/email\"", vec!["/user/email_verified"]),
        ("tenant = \"local\"\nuser_claim = \"/user/email/0\"", vec![]),
        ("tenant_claim = \"https://example.com/email\"", vec!["/email_verified"]),
        ("tenant = \"local\"\nrequire = { \"/user/email\" = [\"a@b\"] }", vec!["/user/email_verified"]),
        ("tenant = \"local\"\nscope_claim = \"email\"", vec![]),
    ] {
        assert_eq!(verified(lines), by, "{lines}");
    }
}

#[test]
fn a_provider_has_defaults_that_a_file_need_not_say() {
    let config = load(&provider("tenant = \"local\"")).unwrap().config;
    let oidc = &config.oidc[0];
    assert_eq!(oidc.discovery.to_string(), "https://id.example/a/.well-known/openid-configuration");
    assert_eq!((oidc.name.as_str(), oidc.user_claim.as_str()), ("studio", "sub"));
    assert_eq!(oidc.scopes, ["openid", "profile", "email"]);
    assert_eq!(oidc.algorithms, [Algorithm::Rs256, Algorithm::Es256]);
    assert_eq!((oidc.session_max, oidc.refresh_stale_max), (OidcConfig::SESSION_MAX, OidcConfig::REFRESH_STALE_MAX));
    assert_eq!(oidc.callback_path(), "/gate/oidc/callback");
    let own = load(&provider("tenant = \"local\"\ncallback = \"own\"\nscopes = [\"email\"]")).unwrap().config;
    assert_eq!(own.oidc[0].callback_path(), "/gate/oidc/callback/studio");
    assert_eq!(own.oidc[0].scopes, ["openid", "email"]);
}

#[test]
fn a_faulty_provider_is_told_with_its_place() {
    for (lines, fault) in [
        ("", "nothing says whose tenant"),
        ("tenant = \"local\"\ntenant_claim = \"org\"", "are both set"),
        ("tenant = \"local\"\nunknown_tenant = \"create\"", "belongs to `tenant_claim`"),
        ("tenant_claim = \"org\"\nunknown_tenant = \"create\"", "needs `create_plan`"),
        ("tenant = \"local\"\nalgorithms = [\"HS256\"]", "a shared secret is never published"),
        ("tenant = \"local\"\nalgorithms = [\"none\"]", "`none` is no algorithm"),
        ("tenant = \"local\"\nclient_secret = \"hunter2\"", "written as a reference"),
        ("tenant = \"local\"\nclient_secret = \"env:NONE\"", "is not set"),
        ("tenant = \"local\"\nscopes = [\"openid email\"]", "is no scope"),
        ("tenant = \"local\"\nrequire = { groups = [] }", "may have no value"),
        ("tenant = \"local\"\nrequire = { \"/a~2\" = [\"x\"] }", "in a JSON pointer"),
        ("tenant = \"local\"\nleeway = \"61s\"", "out of range"),
        ("tenant = \"local\"\nca = \"none.pem\"", "can't read"),
        ("tenant = \"local\"\nprompt = \"none\"", "`none`"),
        ("tenant = \"local\"\nredirect_uri = \"https://x\"", "is not the name of this key"),
    ] {
        let found = only_error(&provider(lines));
        assert!(found.contains(fault), "{lines}: {found}");
        assert!(!found.contains("hunter2"));
    }
    let issuer = |text: &str| provider("tenant = \"local\"").replace("https://id.example/a", text);
    assert!(load(&issuer("http://127.0.0.1:9/a")).is_ok());
    for (text, fault) in [
        ("http://id.example", "is plain http"),
        ("https://id.example/?a", "has a query"),
        ("https://me:secret@id.example", "is no URL"),
        ("id.example", "is no URL"),
    ] {
        let found = only_error(&issuer(text));
        assert!(found.contains(fault) && !found.contains("secret"), "{found}");
    }
    for id in ["callback", "backchannel", "Studio", "-a", "a/b"] {
        let found = only_error(&provider("tenant = \"local\"").replace("\"studio\"", &format!("\"{id}\"")));
        assert!(found.contains("provider id"), "{id}: {found}");
    }
    assert!(only_error(&provider("tenant = \"local\"").replacen("public_url", "#", 1)).contains("needs `public_url`"));
}

#[test]
fn providers_are_named_once_and_one_of_them_is_automatic() {
    let second = |id: &str, lines: &str| {
        let first = provider("tenant = \"local\"\nautomatic = true");
        format!(
            "{first}[[oidc]]\nid = \"{id}\"\nissuer = \"https://b.example\"\nclient_id = \"c\"\ntenant = \"local\"\n{lines}\n"
        )
    };
    assert_eq!(load(&second("other", "")).unwrap().config.oidc.len(), 2);
    assert!(only_error(&second("studio", "")).contains("is a provider already"));
    assert!(only_error(&second("other", "automatic = true")).contains("another provider is `automatic`"));
    let shared = load(&second("other", "callback = \"own\"")).unwrap().warnings;
    assert_eq!(shared.len(), 1, "{shared:?}");
    assert!(shared[0].to_string().contains("`studio` shares the address"), "{}", shared[0]);
}

#[test]
fn a_fixed_tenant_at_a_public_provider_and_users_by_mail_are_warned_of() {
    let warnings = |lines: &str| {
        let text = provider(lines).replace("https://id.example/a", "https://accounts.google.com");
        load(&text).unwrap().warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert!(warnings("tenant = \"local\"")[0].contains("everybody with an account at accounts.google.com"));
    assert!(warnings("tenant = \"local\"\nrequire = { hd = [\"example.com\"] }").is_empty());
    assert!(warnings("tenant_claim = \"hd\"").is_empty());
    assert!(warnings("tenant_claim = \"hd\"\nuser_claim = \"email\"")[0].contains("by their address of mail"));
    assert!(load(&provider("tenant = \"local\"")).unwrap().warnings.is_empty(), "a provider of one's own");
}

#[test]
fn of_microsoft_one_directory_is_an_issuer_and_all_of_them_together_are_none() {
    let at = |path: &str| {
        provider("tenant = \"local\"")
            .replace("https://id.example/a", &format!("https://login.microsoftonline.com/{path}"))
    };
    assert!(load(&at("0f3c2a5e-0000-4000-8000-000000000000/v2.0")).unwrap().warnings.is_empty());
    let everybodys = load(&at("9188040d-6c67-4c5b-b112-36a304b66dad/v2.0")).unwrap().warnings;
    assert!(everybodys.len() == 1 && everybodys[0].to_string().contains("everybody with an account"), "{everybodys:?}");
    for path in ["common/v2.0", "organizations/v2.0", "consumers/v2.0"] {
        assert!(only_error(&at(path)).contains("name your own directory"), "{path}");
    }
}

#[test]
fn a_secret_that_every_account_can_read_is_warned_of() {
    use std::os::unix::fs::PermissionsExt as _;
    let text = provider("tenant = \"local\"\nclient_secret = \"file:s\"");
    let place = Place::with(&[("config/gateway.toml", &text), ("s", "0123456789abcdef")]);
    for (mode, wanted) in
        [(0o600, None), (0o640, None), (0o644, Some("can be read by every account")), (0o602, Some("can be written"))]
    {
        std::fs::set_permissions(place.dir.path().join("s"), std::fs::Permissions::from_mode(mode)).unwrap();
        let warnings = place.load(None, &no_environment).unwrap().warnings;
        let told: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        assert!(
            told.len() == usize::from(wanted.is_some()) && wanted.is_none_or(|text| told[0].contains(text)),
            "{mode:o}: {told:?}"
        );
    }
}

#[test]
fn leeway_is_at_most_a_minute() {
    let leeway = |text: &str| format!("{HS256}algorithms = [\"HS256\"]\nsecret = \"file:s\"\nleeway = \"{text}\"\n");
    let load = |text: &str| {
        Place::with(&[("config/gateway.toml", &leeway(text)), ("s", &"x".repeat(40))]).load(None, &no_environment)
    };
    assert_eq!(load("1m").unwrap().config.jwt[0].leeway, Duration::from_secs(60));
    assert!(load("61s").unwrap_err()[0].contains("out of range"));
}

#[test]
fn an_audit_file_needs_its_directory() {
    let audit = |file: &str| format!("[audit]\nfile = \"{file}\"\n");
    assert_eq!(load(&audit("-")).unwrap().config.audit, AuditConfig::StandardOutput);
    assert!(
        matches!(load(&audit("audit.jsonl")).unwrap().config.audit, AuditConfig::File { path, .. } if path.is_absolute())
    );
    assert!(only_error(&audit("none/audit.jsonl")).contains("is not there"));
}

// The shipped files: the documentation is the file, and this holds it to what the reader knows.

const GATEWAY: &str = include_str!("../../../config/gateway.toml");
const TENANTS: &str = include_str!("../../../config/tenants.toml");

#[test]
fn the_shipped_files_load_and_say_the_defaults() {
    let config = Place::with(&[("config/gateway.toml", GATEWAY), ("config/tenants.toml", TENANTS)])
        .load(None, &no_environment)
        .unwrap()
        .config;
    let defaults = Config::built_in(config.state_dir.clone());
    assert_eq!((config.limits, config.dispatch, config.audit), (defaults.limits, defaults.dispatch, defaults.audit));
    assert_eq!(
        (config.listen, config.metrics_address, config.views_lifetime),
        (defaults.listen, defaults.metrics_address, defaults.views_lifetime)
    );
    let (shipped, built_in) = (config.tenants.tenants().next().unwrap(), defaults.tenants.tenants().next().unwrap());
    assert_eq!(
        (&shipped.id, shipped.limits, shipped.policy.digest()),
        (&built_in.id, built_in.limits, built_in.policy.digest())
    );
}

/// The file with every `#key` switched on.
fn all_keys(text: &str) -> String {
    let on = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => rest.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(|line| on(line) + "\n").collect()
}

/// Every key of a table with its path, `[]` for each index.
fn paths(table: &DeTable<'_>, path: &str, found: &mut BTreeSet<String>) {
    for (key, value) in table {
        let path = if path.is_empty() { key.get_ref().to_string() } else { format!("{path}.{}", key.get_ref()) };
        found.insert(path.clone());
        match value.get_ref() {
            DeValue::Table(inner) => paths(inner, &path, found),
            DeValue::Array(entries) => {
                entries
                    .iter()
                    .filter_map(|entry| entry.get_ref().as_table())
                    .for_each(|inner| paths(inner, &format!("{path}[]"), found));
            }
            _ => {}
        }
    }
}

/// Every documented key, and every key that the reader asks for when it reads them.
fn documented_and_known(text: &str, read: impl FnOnce(reader::Reader<'_>)) -> (BTreeSet<String>, BTreeSet<String>) {
    let source = faults::SourceFile { path: Path::new("f").into(), text: all_keys(text) };
    let (report, mut documented) = (Report::default(), BTreeSet::new());
    paths(DeTable::parse(&source.text).unwrap().get_ref(), "", &mut documented);
    read_file(&source, &report, read);
    let known = report.asked.take();
    report.conclude(Some(())).unwrap();
    (documented, known)
}

#[test]
fn every_documented_key_of_the_gateway_is_known_and_every_known_one_documented() {
    let (documented, known) = documented_and_known(GATEWAY, |reader| drop(raw::RawConfig::read(reader)));
    assert_eq!(documented, known);
    assert!(documented.contains("listen[].tls.certificate"));
}

#[test]
fn every_documented_key_of_the_tenants_is_known_and_every_known_one_documented() {
    let source = faults::SourceFile { path: Path::new("f").into(), text: all_keys(TENANTS) };
    let (report, mut documented) = (Report::default(), BTreeSet::new());
    paths(DeTable::parse(&source.text).unwrap().get_ref(), "", &mut documented);
    crate::tenants::read_tenants(&source, Path::new("/"), &report);
    assert_eq!(documented, report.asked.take());
    assert!(report.conclude(Some(())).is_ok());
}

// What stands in front of a listener.

fn listen(lines: &str) -> String {
    format!("[[listen]]\n{lines}\n")
}

fn facts(text: &str) -> Arc<ListenerFacts> {
    Arc::clone(&load(&listen(text)).unwrap().config.listen[0].facts)
}

#[test]
fn plain_is_for_loopback_and_unix_sockets_or_behind_a_terminator() {
    for address in ["127.0.0.1:1", "[::1]:1", "unix:gate.sock"] {
        let config = load(&listen(&format!("address = \"{address}\"\nplain = true"))).unwrap().config;
        assert_eq!(config.listen[0].kind, ListenKind::Plain, "{address}");
    }
    for address in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1"] {
        let plain = format!("address = \"{address}\"\nplain = true");
        let fault = only_error(&listen(&plain));
        assert!(fault.contains("`listen[0].plain`") && fault.contains("carries credentials"), "{fault}");
        let behind = format!("{plain}\nbehind_tls_terminator = true\ntrusted_proxies = [\"10.0.0.2\"]");
        assert!(load(&listen(&behind)).is_ok(), "{address}");
    }
    let promise = "address = \"10.0.0.1:1\"\nbehind_tls_terminator = true";
    assert!(only_error(&listen(promise)).contains("this listener ends TLS itself"));
    let with_tls = "address = \"127.0.0.1:1\"\nplain = true\ntls = { certificate = \"c\", key = \"k\" }";
    assert!(only_error(&listen(with_tls)).contains("a plain listener has no `tls`"));
    let redirect = format!(
        "{}{}",
        listen("address = \"127.0.0.1:2\""),
        listen("address = \"127.0.0.1:1\"\nplain = true\nredirect = true")
    );
    assert!(only_error(&redirect).contains("a redirect is plain already"));
}

#[test]
fn a_plain_listener_alone_is_enough_and_is_marked() {
    assert!(facts("address = \"127.0.0.1:1\"\nplain = true").plain);
    assert!(!facts("address = \"127.0.0.1:1\"").plain);
}

#[test]
fn a_terminator_that_is_not_trusted_is_a_warning() {
    let warnings = |more: &str| {
        let text = format!(
            "public_url = \"https://a\"\n{}",
            listen(&format!("address = \"10.0.0.1:1\"\nplain = true\nbehind_tls_terminator = true\n{more}"))
        );
        load(&text).unwrap().warnings.len()
    };
    assert_eq!((warnings(""), warnings("trusted_proxies = [\"10.0.0.2\"]")), (1, 0));
}

#[test]
fn a_proxy_header_is_taken_from_named_proxies_only() {
    let fault = only_error(&listen("address = \"127.0.0.1:1\"\nproxy_protocol = true"));
    assert!(fault.contains("chooses the caller's address"), "{fault}");
    let facts = facts("address = \"127.0.0.1:1\"\nproxy_protocol = true\ntrusted_proxies = [\"10.0.0.0/8\"]");
    assert!(facts.proxy_protocol && facts.trusted.holds("10.0.0.1".parse().unwrap()));
}

#[test]
fn trusted_proxies_are_networks_and_unix_is_for_unix_sockets() {
    let trusted =
        |address: &str, entry: &str| listen(&format!("address = \"{address}\"\ntrusted_proxies = [\"{entry}\"]"));
    for entry in ["10.0.0.0/8", "::1", "192.0.2.1"] {
        assert!(load(&trusted("127.0.0.1:1", entry)).is_ok(), "{entry}");
    }
    assert!(load(&trusted("unix:gate.sock", "unix")).is_ok());
    assert!(only_error(&trusted("127.0.0.1:1", "unix")).contains("`unix` is for listeners on a unix socket"));
    assert!(only_error(&trusted("127.0.0.1:1", "0.0.0.0/0")).contains("would believe everybody"));
    assert!(only_error(&trusted("127.0.0.1:1", "10.1.0.0/8")).contains("the network is `10.0.0.0/8`"));
    assert!(only_error(&trusted("127.0.0.1:0", "::1")).contains("must be known by its port"));
}

#[test]
fn a_socket_file_has_a_directory_a_short_path_and_a_mode() {
    let config = load(&listen("address = \"unix:gate.sock\"")).unwrap().config;
    assert!(config.listen[0].address.unix().unwrap().is_absolute());
    assert_eq!(config.listen[0].mode, 0o660);
    let mode = |address: &str, mode: &str| listen(&format!("address = \"{address}\"\nmode = \"{mode}\""));
    assert_eq!(load(&mode("unix:a", "0600")).unwrap().config.listen[0].mode, 0o600);
    assert_eq!(load(&mode("unix:a", "666")).unwrap().config.listen[0].mode, 0o666);
    for bad in ["rw", "0999", "06", "00660", "+66"] {
        assert!(only_error(&mode("unix:a", bad)).contains("is no mode"), "{bad}");
    }
    assert!(only_error(&mode("127.0.0.1:1", "0600")).contains("only a socket file has a mode"));
    assert!(only_error(&listen("address = \"unix:none/gate.sock\"")).contains("is not there"));
    let long = format!("address = \"unix:{}\"", "a".repeat(108));
    assert!(only_error(&listen(&long)).contains("is longer than 107 bytes"));
    let twice = format!("{}{}", listen("address = \"unix:a\""), listen("address = \"unix:a\""));
    assert!(only_error(&twice).contains("is taken by"));
}

#[test]
fn a_prefix_is_stripped_only_where_there_is_one() {
    let stripped =
        |url: &str| format!("public_url = \"{url}\"\n{}", listen("address = \"127.0.0.1:1\"\nprefix_stripped = true"));
    assert!(load(&stripped("https://a/comfy")).unwrap().config.listen[0].facts.prefix_stripped);
    assert!(only_error(&stripped("https://a")).contains("no path that could be stripped"));
}

/// A configuration with a listener that asks for certificates, and these entries.
fn certificates(listener: &str, entries: &str) -> Result<Loaded, Vec<String>> {
    let ca = rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap().cert.pem();
    let gateway = format!("{}{entries}", listen(&format!("address = \"127.0.0.1:1\"\n{listener}")));
    Place::with(&[("config/gateway.toml", &gateway), ("ca.pem", &ca), ("empty.pem", "")]).load(None, &no_environment)
}

const CA: &str = "client_ca = \"ca.pem\"";

#[test]
fn a_client_ca_is_read_and_needs_tls() {
    let wanted = |lines: &str| certificates(lines, "").unwrap().config.listen[0].client_ca.as_ref().map(|ca| ca.wanted);
    assert_eq!(wanted(CA), Some(ClientCertificates::Required));
    assert_eq!(wanted(&format!("{CA}\nclient_certificates = \"optional\"")), Some(ClientCertificates::Optional));
    assert_eq!(wanted(""), None);
    let fault = |lines: &str| certificates(lines, "").unwrap_err().remove(0);
    assert!(fault(&format!("{CA}\nplain = true")).contains("need TLS"));
    assert!(fault("client_certificates = \"required\"").contains("add `client_ca`"));
    assert!(fault(&format!("{CA}\nclient_certificates = \"maybe\"")).contains("is not known here"));
    assert!(fault("client_ca = \"empty.pem\"").contains("has no certificate in it"));
    assert!(fault("client_ca = \"absent.pem\"").contains("absent.pem"));
}

#[test]
fn a_client_certificate_is_named_one_way_and_once() {
    let entry = |lines: &str| format!("[[client_certificate]]\n{lines}\n");
    let good = entry("dns = \"a.example\"\ntenant = \"local\"\nuser = \"u\"\nscopes = [\"read\"]");
    let rules = certificates(CA, &good).unwrap().config.client_certificates;
    assert!(rules[0].scopes.has(crate::owner::Scope::Read) && !rules[0].scopes.has(crate::owner::Scope::Submit));
    let fault = |entries: &str| certificates(CA, entries).unwrap_err().remove(0);
    assert!(fault(&entry("tenant = \"local\"")).contains("exactly one way"));
    assert!(fault(&entry("dns = \"a\"\nuri = \"x:y\"\ntenant = \"local\"")).contains("exactly one way"));
    assert!(fault(&entry("dns = \"*.a\"\ntenant = \"local\"")).contains("wildcards match nothing"));
    assert!(fault(&entry("dns = \"a\"\ntenant = \"local\"\nscopes = [\"root\"]")).contains("`root` is no scope"));
    assert!(
        fault(&entry("subject = \"CN=a\"\ndns = \"a\"\ntenant = \"local\"")).contains("is not the name of this key")
    );
    assert!(fault(&entry("dns = \"a\"")).contains("`client_certificate[0].tenant`: is missing"));
    let twice = [entry("dns = \"a\"\ntenant = \"local\""), entry("dns = \"A\"\ntenant = \"local\"")].concat();
    assert!(fault(&twice).contains("another entry is for the same certificates"));
    assert_eq!(certificates("", &good).unwrap().warnings.len(), 1);
}

#[test]
fn a_tenant_that_the_file_has_not_may_be_named_and_is_told_by_those_who_know_the_files_alone() {
    let entries = |tenant: &str| format!("[[client_certificate]]\ndns = \"a.example\"\ntenant = \"{tenant}\"\n");
    let told = |loaded: &Loaded| loaded.warnings_of_files().iter().map(ToString::to_string).collect::<Vec<_>>();
    let there = certificates(CA, &entries("local")).unwrap();
    assert_eq!((told(&there), there.config.tenants.is_named(&"local".parse().unwrap())), (Vec::new(), true));
    let absent = certificates(CA, &entries("loca")).unwrap();
    assert_eq!(absent.config.client_certificates[0].tenant.as_str(), "loca");
    // A gateway knows who else there is, and tells it itself.
    assert_eq!(absent.warnings, []);
    let told_of = told(&absent).remove(0);
    assert!(
        told_of.contains("gateway.toml:6:10: `client_certificate[0].tenant`: there is no tenant `loca`"),
        "{told_of}"
    );
    assert!(
        told_of.contains("did you mean `local`? nobody is let in by this until `comfygate tenant create loca`"),
        "{told_of}"
    );
    // Of one that tokens make, what helps is another thing.
    let made = format!("j-{}", "0a".repeat(12));
    let told_of = told(&certificates(CA, &entries(&made)).unwrap()).remove(0);
    assert!(told_of.contains("until a token of its issuer has made it") && !told_of.contains("mean"), "{told_of}");
    // An [[oidc]] alike.
    let oidc = |tenant: &str| load(&provider(&format!("tenant = \"{tenant}\""))).unwrap();
    assert_eq!(told(&oidc("local")), Vec::<String>::new());
    let absent = oidc("studio");
    assert!(told(&absent)[0].contains("`oidc[0].tenant`: there is no tenant `studio`"), "{:?}", told(&absent));
    assert!(absent.config.tenants.is_named(&"studio".parse().unwrap()));
    assert!(!absent.config.tenants.is_named(&"local".parse().unwrap()));
}

#[test]
fn the_audit_file_is_rotated_from_64_kib_on_or_never() {
    let place = |lines: &str| load(&format!("[audit]\nfile = \"audit.jsonl\"\n{lines}"));
    let rotation = |lines: &str| match place(lines).unwrap().config.audit {
        AuditConfig::File { rotation, .. } => rotation,
        other => panic!("no file: {other:?}"),
    };
    assert_eq!(rotation(""), Some(Rotation::default()));
    assert_eq!(rotation("rotate_bytes = \"64KiB\"\nkeep = 1"), Some(Rotation { bytes: ROTATE_BYTES_MIN, keep: 1 }));
    assert_eq!(rotation("rotate_bytes = \"0KiB\""), None);
    for (wrong, key) in [("rotate_bytes = \"63KiB\"", "rotate_bytes"), ("keep = 0", "keep"), ("keep = 1001", "keep")] {
        let errors = place(wrong).unwrap_err();
        assert!(errors.len() == 1 && errors[0].contains(&format!("audit.{key}")), "{errors:?}");
    }
    let loaded = load("[audit]\nrotate_bytes = \"1MiB\"").unwrap();
    assert!(loaded.warnings[0].to_string().contains("not rotated"), "{:?}", loaded.warnings);
}

#[test]
fn free_space_is_a_gibibyte_unless_set_and_may_be_none() {
    assert_eq!(load("").unwrap().config.free_space_min, 1 << 30);
    for (text, bytes) in [("0KiB", 0), ("5MiB", 5 << 20), ("1048576GiB", 1 << 50)] {
        let config = load(&format!("[state]\ndir = \"s\"\nfree_space_min = \"{text}\"")).unwrap().config;
        assert_eq!(config.free_space_min, bytes, "{text}");
    }
    assert!(only_error("[state]\nfree_space_min = \"1048577GiB\"").contains("state.free_space_min"));
}

// Which backend for whom.

#[test]
fn a_tenants_tags_must_all_be_at_one_backend_of_its_pool() {
    let load = |backends: &str, tags: &str| {
        let gateway = format!("[tenants]\nfile = \"t.toml\"\n{backends}");
        let tenants = format!("[[plan]]\nid = \"p\"\nbackend_tags = {tags}\n[[tenant]]\nid = \"a\"\nplan = \"p\"\n");
        let place = Place::with(&[("config/gateway.toml", gateway.as_str()), ("t.toml", tenants.as_str())]);
        place.load(None, &no_environment).map(|loaded| loaded.config)
    };
    let backend = |id: &str, port: u16, more: &str| {
        format!("[[backends]]\nid = \"{id}\"\nurl = \"http://127.0.0.1:{port}\"\n{more}")
    };
    let (one, two) = (backend("a", 1, "tags = [\"x\"]\n"), backend("b", 2, "tags = [\"y\"]\n"));
    let both = backend("c", 3, "tags = [\"x\", \"y\"]\n");
    let config = load(&format!("{one}{both}"), "[\"x\", \"y\"]").unwrap();
    assert_eq!(config.tenants.tenant(&"a".parse().unwrap()).unwrap().backend_tags.len(), 2);
    let found = load(&format!("{one}{two}"), "[\"x\", \"y\"]").unwrap_err();
    assert!(
        found.len() == 1 && found[0].contains("tenant `a` asks for backends with all of the tags `x`, `y`"),
        "{found:?}"
    );
    let elsewhere = backend("c", 3, "pool = \"other\"\ntags = [\"x\"]\n");
    assert!(load(&format!("{two}{elsewhere}"), "[\"x\"]").is_err(), "of another pool");
    assert!(load(&two, "[]").is_ok());
    assert!(load(&two, "[\"Y\"]").unwrap_err()[0].contains("no backend tag"));
}

#[test]
fn a_share_is_one_to_a_hundred_percent_and_a_need_is_a_size() {
    let share = |percent: u32| {
        load(&format!("[[backends]]\nid = \"a\"\nurl = \"http://127.0.0.1:1\"\nshare_percent = {percent}\n"))
    };
    assert_eq!(share(1).unwrap().config.backends[0].share_percent, 1);
    assert!(share(100).is_ok() && share(0).is_err() && share(101).is_err());
    let need = |lines: &str| load(&format!("[[vram]]\n{lines}\n"));
    let table = need("model = \"flux*\"\nneed = \"22GiB\"").unwrap().config.vram;
    assert_eq!(table.largest(["flux1.safetensors"].into_iter()), Some(22 << 30));
    assert!(need("model = \"[\"\nneed = \"1GiB\"").is_err());
    assert!(need("model = \"flux*\"").is_err() && need("need = \"1GiB\"").is_err());
}

#[test]
fn a_warm_up_names_a_file_that_the_strict_parser_takes_or_a_model_and_not_both() {
    let load = |lines: &str, file: &str| {
        let text = format!("[[backends]]\nid = \"a\"\nurl = \"http://127.0.0.1:1\"\n{lines}");
        let place = Place::with(&[("config/gateway.toml", text.as_str()), ("w.json", file)]);
        place.load(None, &no_environment).map(|loaded| loaded.config.backends[0].warm_up.clone())
    };
    let good = r#"{"1": {"class_type": "PreviewAny", "inputs": {"source": "x"}}}"#;
    let file = "warm_up = \"w.json\"\n";
    assert!(matches!(load(file, good), Ok(WarmUpConfig::File { .. })));
    assert!(matches!(load("warm_up_model = \"m\"\n", good), Ok(WarmUpConfig::Sampling { model: Some(_) })));
    assert!(matches!(load("", good), Ok(WarmUpConfig::Sampling { model: None })));
    let both = load(&format!("{file}warm_up_model = \"m\"\n"), good).unwrap_err();
    assert!(both[0].contains("names its models itself"), "{both:?}");
    assert!(load(file, "{\"1\": 2}").unwrap_err()[0].contains("`backends[0].warm_up`"));
    assert!(load("warm_up = \"none.json\"\n", good).unwrap_err()[0].contains("can't read"));
}
