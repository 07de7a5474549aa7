//! Commands find the running gateway whatever is wrong in its configuration, and a wrong directory is told as such.

use comfygate_tests::gateway::{binary, run_in, said};
use comfygate_tests::{Gateway, eventually};
use serde_json::Value;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("no exit code: {}", said(output)))
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_gateway_is_asked_whatever_is_wrong_in_its_configuration() {
    let mut gateway = Gateway::builder().stand_ins(1).start().await;
    let key = gateway.new_key(&["--tenant", "acme"]);
    let id = key.split('_').nth(1).unwrap();
    gateway.edit("gateway.toml", |text| text + "\n[views]\nlifetme = \"1h\"\n");
    for command in [
        &["key", "list"][..],
        &["key", "create", "--tenant", "bravo"],
        &["key", "revoke", id],
        &["tenant", "list"],
        &["tenant", "pause", "acme"],
        &["tenant", "resume", "acme"],
        &["user", "list"],
        &["session", "list"],
        &["session", "revoke", "--tenant", "acme", "--user", "ann"],
        &["policy", "ban", "EmptyImage"],
        &["policy", "bans"],
        &["backend", "list"],
        &["refusals"],
        &["dead-letters"],
        &["retention", "--dry-run"],
        &["usage", "--json"],
        &["status"],
        &["backup", "--to", "b.tar"],
        &["tenant", "export", "--tenant", "acme", "--to", "out"],
    ] {
        let done = gateway.command(command);
        // Nobody is logged in: the answer is no, and it is the gateway's.
        let wanted = i32::from(command.starts_with(&["session", "revoke"]));
        assert_eq!(code(&done), wanted, "{command:?}: {}", said(&done));
        assert!(!said(&done).contains("lifetme"), "{command:?}: {}", said(&done));
    }
    gateway.stranger().bearer(&key).get("/gate/me").await.expect(401);
    let told = gateway.command(&["reload"]);
    assert_eq!(code(&told), 1, "{}", said(&told));
    assert!(said(&told).contains("lifetme") && said(&told).contains("keeps its configuration"), "{}", said(&told));
    assert!(!errors(&told).contains("this shell"), "the gateway said it already: {}", said(&told));

    gateway.edit("gateway.toml", |text| text + "\n= nothing\n");
    let lost = gateway.command(&["key", "list"]);
    assert_eq!(code(&lost), 2);
    assert!(said(&lost).contains("gateway.toml:") && said(&lost).contains("--config"), "{}", said(&lost));
    let alone = format!("[state]\ndir = {:?}\n", gateway.state().display().to_string());
    fs::write(gateway.directory().join("alone.toml"), alone).unwrap();
    let found = run_in(gateway.directory(), &["key", "list", "--config", "alone.toml"]);
    assert!(code(&found) == 0 && said(&found).contains(id), "{}", said(&found));

    gateway.edit("gateway.toml", |text| text.replace("\n= nothing\n", ""));
    gateway.terminate().await;
    let stopped = gateway.command(&["key", "list"]);
    assert_eq!(code(&stopped), 2);
    assert!(said(&stopped).contains("no gateway runs") && said(&stopped).contains("lifetme"), "{}", said(&stopped));
    for command in [&["reload"][..], &["backend", "list"], &["retention", "--last"], &["catalogue", "diff"]] {
        let none = gateway.command(command);
        assert_eq!(code(&none), 2, "{command:?}: {}", said(&none));
        assert!(said(&none).contains("no gateway answers") && !said(&none).contains("keeps"), "{}", said(&none));
    }
    assert_eq!(code(&gateway.command(&["status"])), 1, "that is the answer to its question");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_variable_that_only_the_gateway_has_keeps_no_command_from_it() {
    let issuer = "[[jwt]]\nissuer = \"https://id.example.com\"\naudience = \"comfygate\"\nalgorithms = [\"HS256\"]\nsecret = \"env:REACH_SECRET\"\ntenant_claim = \"org\"\nuser_claim = \"sub\"\n";
    let mut gateway = Gateway::builder()
        .stand_ins(1)
        .gateway_toml(issuer)
        .environment("REACH_SECRET", "0123456789abcdef0123456789abcdef0123456789abcdef")
        .start()
        .await;
    let listed = gateway.command(&["tenant", "list"]);
    assert!(code(&listed) == 0 && said(&listed).contains("acme"), "{}", said(&listed));
    let told = gateway.command(&["reload"]);
    assert_eq!(code(&told), 0, "{}", said(&told));
    assert!(
        errors(&told).contains("seen from this shell") && errors(&told).contains("REACH_SECRET"),
        "{}",
        said(&told)
    );
    gateway.terminate().await;
    let stopped = gateway.command(&["tenant", "list"]);
    assert!(code(&stopped) == 2 && said(&stopped).contains("REACH_SECRET"), "{}", said(&stopped));
}

#[test]
fn a_wrong_directory_is_no_state_and_none_is_made_in_it() {
    let directory = tempfile::tempdir().unwrap();
    for command in [
        &["tenant", "list"][..],
        &["tenant", "erase", "local", "--yes"],
        &["tenant", "disable", "local"],
        &["tenant", "pause", "local"],
        &["tenant", "export", "--tenant", "local", "--to", "out"],
        &["key", "list"],
        &["key", "revoke", "000000000000"],
        &["user", "list"],
        &["session", "list"],
        &["backup", "--to", "b.tar"],
        &["retention"],
        &["policy", "ban", "EmptyImage"],
        &["policy", "bans"],
        &["backend", "drain", "local"],
        &["refusals"],
        &["dead-letters"],
        &["usage"],
    ] {
        let refused = run_in(directory.path(), command);
        assert_eq!(code(&refused), 2, "{command:?}: {}", said(&refused));
        assert!(errors(&refused).contains("there is no state in"), "{command:?}: {}", said(&refused));
        assert!(refused.stdout.is_empty(), "{command:?}: {}", said(&refused));
    }
    let left: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name.to_str().unwrap().starts_with('.')), "{left:?}");

    let made = run_in(directory.path(), &["key", "create", "--tenant", "local"]);
    assert_eq!(code(&made), 0, "{}", said(&made));
    let state = directory.path().join("state").display().to_string();
    assert!(
        errors(&made).lines().any(|line| line.contains("no gateway runs") && line.contains(&state)),
        "{}",
        said(&made)
    );
    assert_eq!(String::from_utf8_lossy(&made.stdout).trim().lines().count(), 1, "the key alone: {}", said(&made));
    let listed = run_in(directory.path(), &["key", "list", "--json"]);
    assert!(code(&listed) == 0 && errors(&listed).contains(&state), "{}", said(&listed));
    assert!(serde_json::from_slice::<Value>(&listed.stdout).is_ok(), "{}", said(&listed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_ask_a_running_gateway_is_told_so_and_not_that_none_runs() {
    let gateway = Gateway::builder().stand_ins(1).start().await;
    fs::set_permissions(gateway.directory(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(gateway.config(), Permissions::from_mode(0o644)).unwrap();
    for arguments in [&["status"][..], &["key", "list"], &["reload"]] {
        let mut command = Command::new(binary());
        command.args(arguments).arg("--config").arg(gateway.config()).current_dir(gateway.directory());
        let Ok(refused) = command.uid(54_321).output() else {
            comfygate_tests::skipped("a command of another user: only root can start one");
            return;
        };
        assert_eq!(code(&refused), 2, "{arguments:?}: {}", said(&refused));
        let text = said(&refused);
        assert!(text.contains("may not ask") && text.contains("sudo -u"), "{text}");
        assert!(!text.contains("not running") && !text.contains("chown"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_a_no_and_what_could_not_be_done_is_not() {
    let mut gateway = Gateway::builder().stand_ins(1).start().await;
    let unknown = [
        &["tenant", "show", "nope"][..],
        &["tenant", "set", "nope", "--set", "weight=2"],
        &["tenant", "disable", "nope"],
        &["tenant", "pause", "nope"],
        &["tenant", "delete", "nope", "--yes"],
        &["tenant", "export", "--tenant", "nope", "--to", "out"],
        &["key", "create", "--tenant", "nope"],
        &["key", "revoke", "000000000000"],
        &["user", "remove", "nope"],
    ];
    let empty = [
        &["key", "list", "--tenant", "nope"][..],
        &["user", "list", "--tenant", "nope"],
        &["session", "list", "--tenant", "nope"],
        &["refusals", "--tenant", "nope"],
        &["dead-letters", "--tenant", "nope"],
        &["usage", "--tenant", "nope", "--json"],
    ];
    let twice = [
        &["tenant", "set", "acme", "--set", "weight=9", "--unset", "weight"][..],
        &["tenant", "set", "acme", "--set", "weight=9", "--set", "weight=3"],
    ];
    for running in [true, false] {
        for command in unknown {
            let no = gateway.command(command);
            assert_eq!(code(&no), 1, "running {running}, {command:?}: {}", said(&no));
        }
        for command in empty {
            let listed = gateway.command(command);
            assert_eq!(code(&listed), 0, "running {running}, {command:?}: {}", said(&listed));
            assert!(errors(&listed).contains("there is no tenant `nope`"), "{command:?}: {}", said(&listed));
        }
        for command in twice {
            let refused = gateway.command(command);
            assert_eq!(code(&refused), 2, "running {running}, {command:?}: {}", said(&refused));
            assert!(errors(&refused).contains("`weight`"), "{}", said(&refused));
        }
        let known = gateway.command(&["key", "list", "--tenant", "acme"]);
        assert!(!errors(&known).contains("there is no tenant"), "{}", said(&known));
        if running {
            let link = gateway.command(&["user", "link", "ann", "--tenant", "nope"]);
            assert_eq!(code(&link), 1, "{}", said(&link));
            gateway.terminate().await;
        }
    }
    let link = gateway.command(&["user", "link", "ann", "--tenant", "acme"]);
    assert_eq!(code(&link), 2, "{}", said(&link));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_acts_for_others_with_no_scope_is_warned_of() {
    let gateway = Gateway::builder().stand_ins(1).prepare().await;
    let create = |scopes: &[&str]| {
        let scopes = scopes.iter().flat_map(|scope| ["--scope", scope]).collect::<Vec<_>>();
        gateway.command(&[&["key", "create", "--tenant", "acme"], &scopes[..]].concat())
    };
    for (scopes, warned) in [
        (&["act-as"][..], true),
        (&["act-as", "admin"], true),
        (&["act-as", "read"], false),
        (&["submit"], false),
        (&[], false),
    ] {
        let made = create(scopes);
        assert_eq!(code(&made), 0, "{}", said(&made));
        assert_eq!(errors(&made).contains("none to act with"), warned, "{scopes:?}: {}", said(&made));
        assert_eq!(String::from_utf8_lossy(&made.stdout).lines().count(), 1, "{}", said(&made));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_tells_from_when_it_is_and_what_it_brings_back() {
    let mut gateway = Gateway::builder().stand_ins(1).start().await;
    let key = gateway.new_key(&["--tenant", "acme"]);
    let id = key.split('_').nth(1).unwrap();
    let made = gateway.command(&["backup", "--to", "b.tar"]);
    assert!(code(&made) == 0 && errors(&made).contains("`oidc.key`"), "{}", said(&made));
    assert_eq!(code(&gateway.command(&["key", "revoke", id])), 0);
    gateway.audited("its end", |line| line["event"] == "key_revoked" && line["key"] == id).await;
    gateway.terminate().await;
    fs::rename(gateway.state(), gateway.directory().join("old")).unwrap();
    let restored = gateway.command(&["restore", "--from", "b.tar", "--json"]);
    assert_eq!(code(&restored), 0, "{}", said(&restored));
    assert!(serde_json::from_slice::<Value>(&restored.stdout).is_ok(), "{}", said(&restored));
    let text = errors(&restored);
    assert!(text.contains("the state of 20") && text.contains("as it was before"), "{text}");
    // The line to look by is one that finds the revocation.
    let pattern = text.split('\'').nth(1).unwrap();
    let found =
        Command::new("grep").args(["-E", pattern]).arg(gateway.directory().join("audit.jsonl")).output().unwrap();
    assert!(said(&found).contains(id), "{pattern}: {}", said(&found));
    gateway.start().await;
    eventually("it lets in again, as was said", || async {
        (gateway.stranger().bearer(&key).get("/gate/me").await.status == 200).then_some(())
    })
    .await;

    let absent = gateway.command(&["restore", "--from", "/nope.tar"]);
    assert!(code(&absent) == 2 && errors(&absent).contains("/nope.tar"), "{}", said(&absent));
}

#[test]
fn a_state_directory_whose_sockets_have_too_long_paths_is_told_by_check() {
    let directory = tempfile::tempdir().unwrap();
    let checked = |bytes: usize| {
        let dir = format!("/{}", "d".repeat(bytes - 1));
        fs::write(directory.path().join("g.toml"), format!("[state]\ndir = {dir:?}\n")).unwrap();
        run_in(directory.path(), &["check", "--config", "g.toml"])
    };
    let longest = 107 - "/hand-over.sock".len();
    let good = checked(longest);
    assert_eq!(code(&good), 0, "{}", said(&good));
    let bad = checked(longest + 1);
    assert!(code(&bad) == 1 && said(&bad).contains("shorter path"), "{}", said(&bad));
}
