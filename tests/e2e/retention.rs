//! Retention: what is old goes and is told, what somebody needs stays, and nothing but our own is touched on backends' disks.

use comfygate_tests::client::files_of;
use comfygate_tests::gateway::{fast, said};
use comfygate_tests::pictures::png;
use comfygate_tests::{Client, Gateway, eventually, workflows};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// A plan whose files are old after a second, while entries of the history stay.
const PLAN: &str = "rate = { per_second = 1000, burst = 1000 }\nrequests = { per_second = 5000, burst = 5000 }\nretention = \"1s\"\nretention_history = \"1h\"\n";
/// A tenant on it whose files stay.
const KEEPS: &str = "[[tenant]]\nid = \"keeps\"\nplan = \"usual\"\nretention = \"0s\"\n";

/// `comfygate retention … --json`.
fn retention(gateway: &Gateway, arguments: &[&str]) -> Value {
    let output = gateway.command(&[&["retention", "--json"], arguments].concat());
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The report of a dry run in which so many results and uploads are due.
async fn due(gateway: &Gateway, results: u64, uploads: u64) -> Value {
    eventually("it is old", || async {
        let report = retention(gateway, &["--dry-run"]);
        let counts = (&report["sum"]["results_by_age"]["count"], &report["sum"]["uploads"]["count"]);
        (counts == (&json!(results), &json!(uploads))).then_some(report)
    })
    .await
}

async fn made(client: &Client, prefix: &str) -> (String, Value) {
    let prompt = client.submit(workflows::quick(prefix)).await;
    let entry = client.finished(&prompt).await;
    (prompt, files_of(&entry).remove(0))
}

async fn uploaded(client: &Client, name: &str, content: &[u8]) {
    client.upload("/upload/image", &[], name, content).await.expect(200);
}

fn blobs(gateway: &Gateway) -> usize {
    let shards = fs::read_dir(gateway.state().join("blobs")).unwrap().map(|shard| shard.unwrap());
    let shards = shards.filter(|shard| shard.file_name() != "tmp");
    shards.map(|shard| fs::read_dir(shard.path()).unwrap().count()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_old_goes_as_it_was_told_and_the_history_says_when() {
    let mut gateway = Gateway::builder().stand_ins(1).plan(PLAN).tenants_toml(KEEPS).start().await;
    let (acme, keeps) = (gateway.client("acme"), gateway.client("keeps"));
    let (prompt, file) = made(&acme, "goes").await;
    let (_, kept) = made(&keeps, "stays").await;
    let picture = png(8, 8, [1, 2, 3]);
    for client in [&acme, &keeps] {
        uploaded(client, "shared.png", &picture).await;
    }
    let me = acme.get("/gate/me").await.expect(200).json();
    assert_eq!((&me["retention"]["files_seconds"], &me["retention"]["history_seconds"]), (&json!(1), &json!(3600)));
    let told = due(&gateway, 1, 1).await;
    assert_eq!(told["tenants"][0]["tenant"], "acme");
    let view = format!("/view?filename={}&type=output", file["filename"].as_str().unwrap());
    let signed = acme.path_of(file["url"].as_str().unwrap());
    acme.get(&view).await.expect(200);

    let done = retention(&gateway, &[]);
    assert_eq!((&done["tenants"], &done["sum"]), (&told["tenants"], &told["sum"]), "what was told is what went");
    acme.get(&view).await.expect(404);
    acme.stranger().get(&signed).await.expect(404);
    acme.get("/view?filename=shared.png&type=input").await.expect(404);
    let entry = &acme.get(&format!("/history/{prompt}")).await.expect(200).json()[&prompt];
    let shown = &files_of(entry)[0];
    assert_eq!((&shown["filename"], &shown["type"]), (&file["filename"], &file["type"]));
    assert!(shown["removed_at"].as_u64().is_some_and(|at| at > 0) && shown.get("url").is_none(), "{shown}");
    let job = acme.get(&format!("/api/jobs/{prompt}")).await.expect(200).json();
    assert_eq!(files_of(&job)[0]["removed_at"], shown["removed_at"]);
    keeps.get("/view?filename=shared.png&type=input").await.expect(200);
    keeps.stranger().get(&keeps.path_of(kept["url"].as_str().unwrap())).await.expect(200);
    assert_eq!(retention(&gateway, &["--last"])["sum"], done["sum"]);
    assert!(gateway.metric("comfygate_retention_removed_total{reason=\"age\",what=\"results\"}").await >= 1.0);
    let line = gateway.audited("retention", |line| line["event"] == "retention").await;
    assert_eq!((&line["results_by_age"]["count"], &line["tenants"]), (&json!(1), &json!(1)));

    // Killed between the removal of the rows and that of the contents, which have their grace.
    let before = blobs(&gateway);
    gateway.kill9();
    let rest = retention(&gateway, &[]);
    assert_eq!(rest["blobs"]["count"], 1, "{rest}");
    assert_eq!(blobs(&gateway), before - 1);
    gateway.start().await;
    keeps.get("/view?filename=shared.png&type=input").await.expect(200);
    assert_eq!(keeps.get("/view?filename=shared.png&type=input").await.body.to_vec(), picture);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_a_held_job_names_stays_until_the_job_has_ended() {
    let gateway = Gateway::builder().stand_ins(1).plan(PLAN).start().await;
    let acme = gateway.client("acme");
    let halted = gateway.command(&["backend", "drain", "gpu0"]);
    assert!(halted.status.success(), "{}", said(&halted));
    uploaded(&acme, "named.png", &png(8, 8, [1, 2, 3])).await;
    uploaded(&acme, "other.png", &png(8, 8, [3, 2, 1])).await;
    let prompt = acme.submit(workflows::inverted("named.png", "held")).await;
    due(&gateway, 0, 1).await;
    retention(&gateway, &[]);
    acme.get("/view?filename=named.png&type=input").await.expect(200);
    acme.get("/view?filename=other.png&type=input").await.expect(404);
    let resumed = gateway.command(&["backend", "resume", "gpu0"]);
    assert!(resumed.status.success(), "{}", said(&resumed));
    let entry = acme.finished(&prompt).await;
    assert_eq!(entry["status"]["status_str"], "success", "{entry}");
    due(&gateway, 1, 1).await;
    retention(&gateway, &["--tenant", "acme"]);
    acme.get("/view?filename=named.png&type=input").await.expect(404);
    let unknown = gateway.command(&["retention", "--tenant", "nobody"]);
    assert!(unknown.status.code() == Some(1) && said(&unknown).contains("nobody"), "{}", said(&unknown));
}

/// A gateway that is told where its one backend's files are.
async fn with_directories() -> (Gateway, TempDir) {
    let base = tempfile::tempdir().unwrap();
    let place = |name: &str| base.path().join(name).display().to_string();
    let lines = format!(
        "input_dir = {:?}\noutput_dir = {:?}\ntemp_dir = {:?}\n",
        place("input"),
        place("output"),
        place("temp")
    );
    let stand_in = comfygate_tests::Options { directory: Some(base.path().to_owned()), ..fast() };
    let builder = Gateway::builder().stand_ins_with(vec![stand_in]).backend_lines(0, &lines);
    (builder.start().await, base)
}

/// The one owner's folder there.
fn owner_folder(base: &Path, directory: &str) -> PathBuf {
    let mut owners = fs::read_dir(base.join(directory).join("t")).unwrap();
    let owner = owners.next().unwrap().unwrap().path();
    assert!(owners.next().is_none());
    owner
}

fn aged(path: &Path, hours: u64) {
    let at = SystemTime::now() - Duration::from_secs(hours * 3600 + 60);
    File::open(path).unwrap().set_modified(at).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backends_disk_is_cleaned_of_what_is_ours_and_a_symlink_leads_nowhere() {
    let (gateway, base) = with_directories().await;
    let acme = gateway.client("acme");
    let own = base.path().join("output/own.png");
    fs::write(&own, "of somebody else").unwrap();
    let (_, file) = made(&acme, "copied").await;
    let owner = owner_folder(base.path(), "output");
    eventually("the attempt's folder is gone", || async { (fs::read_dir(&owner).unwrap().count() == 0).then_some(()) })
        .await;
    acme.stranger().get(&acme.path_of(file["url"].as_str().unwrap())).await.expect(200);

    // What a lost attempt left, and what a hostile pack could lay beside it.
    let victim = tempfile::tempdir().unwrap();
    fs::write(victim.path().join("precious"), "x").unwrap();
    aged(victim.path(), 99);
    let lost = owner.join("01936f00-0000-7000-8000-000000000001-1");
    fs::create_dir(&lost).unwrap();
    fs::write(lost.join("left.png"), "12345").unwrap();
    std::os::unix::fs::symlink(victim.path(), lost.join("inside")).unwrap();
    aged(&lost, 2);
    let link = owner.join("01936f00-0000-7000-8000-000000000002-1");
    std::os::unix::fs::symlink(victim.path(), &link).unwrap();
    let swept = retention(&gateway, &[]);
    assert_eq!(swept["backends"][0]["backend"], "gpu0", "{swept}");
    assert!(!lost.exists(), "{swept}");
    assert!(victim.path().join("precious").exists() && own.exists() && link.is_symlink());

    // An input that no job needs goes after a day, and is given again to the next job that names it.
    uploaded(&acme, "in.png", &png(8, 8, [1, 2, 3])).await;
    let run = || async {
        let prompt = acme.submit(workflows::inverted("in.png", "turned")).await;
        assert_eq!(acme.finished(&prompt).await["status"]["status_str"], "success");
    };
    run().await;
    let inputs = owner_folder(base.path(), "input");
    let given = fs::read_dir(&inputs).unwrap().next().unwrap().unwrap().path();
    aged(&given, 23);
    retention(&gateway, &[]);
    assert!(given.exists());
    aged(&given, 24);
    retention(&gateway, &[]);
    assert!(!given.exists());
    run().await;
    assert!(given.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_is_erased_with_yes_and_its_running_job_ends() {
    let (gateway, base) = with_directories().await;
    let (acme, bravo) = (gateway.client("acme"), gateway.client("bravo"));
    let (_, file) = made(&acme, "erased").await;
    let (prompt, _) = made(&bravo, "stays").await;
    uploaded(&acme, "in.png", &png(8, 8, [1, 2, 3])).await;
    acme.post("/userdata/workflows%2Fmine.json", &json!({"a": 1})).await.expect(200);
    let refused = gateway.command(&["tenant", "erase", "acme"]);
    assert!(refused.status.code() == Some(1) && said(&refused).contains("--yes"), "{}", said(&refused));
    let running = acme.submit(workflows::slow("runs", 150, 200, false)).await;
    acme.running(&running).await;
    let erased = gateway.command(&["tenant", "erase", "acme", "--yes", "--json"]);
    assert!(erased.status.success(), "{}", said(&erased));
    let erased: Value = serde_json::from_slice(&erased.stdout).unwrap();
    assert_eq!(
        (&erased["removed"]["history"]["count"], &erased["removed"]["uploads"]["count"]),
        (&json!(2), &json!(1))
    );
    // Its key is gone too; the tenant is open again, and begins anew with another.
    acme.get("/history").await.expect(401);
    acme.stranger().get(&acme.path_of(file["url"].as_str().unwrap())).await.expect(404);
    let acme = gateway.stranger().bearer(&gateway.new_key(&["--tenant", "acme"]));
    assert_eq!(acme.get("/history").await.expect(200).json(), json!({}));
    acme.get("/userdata/workflows%2Fmine.json").await.expect(404);
    acme.get("/view?filename=in.png&type=input").await.expect(404);
    assert_eq!(fs::read_dir(base.path().join("output/t")).unwrap().count(), 1, "the other tenant's folder");
    assert!(bravo.get(&format!("/history/{prompt}")).await.expect(200).json().get(&prompt).is_some());
    gateway.audited("the erasure", |line| line["event"] == "tenant_erased" && line["tenant"] == "acme").await;
    made(&acme, "again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_names_directories_that_can_t_be_cleaned_and_backends_whose_files_stay() {
    let lines = "output_dir = \"relative/output\"\ntemp_dir = \"/no/such/directory\"\n";
    let gateway = Gateway::builder().stand_ins(1).plan(PLAN).backend_lines(0, lines).prepare().await;
    let told = said(&gateway.command(&["check"]));
    assert!(told.contains("no absolute path") && told.contains("`/no/such/directory` can't be cleaned"), "{told}");
    let gateway = Gateway::builder().stand_ins(1).plan(PLAN).prepare().await;
    let told = said(&gateway.command(&["check"]));
    assert!(told.contains("deletes nothing on the disks of the backends gpu0"), "{told}");
    assert!(told.contains("gone within the hour"), "{told}");
}
