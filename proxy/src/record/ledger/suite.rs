//! What every form of the ledger must do, whatever it stands on.

use super::user_files::{Adopted, AdoptedFile, Adoption, Place, UserBounds, UserPath, UserWrite};
use super::*;
use crate::owner::Scopes;

fn owner(tenant: &str) -> Owner {
    Owner { tenant: tenant.parse().unwrap(), user: None, key: None, shared: false }
}

/// A submission of `tenant` under `name`, whose graph is `graph`.
pub(crate) fn submission(tenant: &str, name: &str, graph: &'static str) -> Acceptance {
    Acceptance {
        owner: owner(tenant),
        prompt_id: Some(name.parse().unwrap()),
        client_id: None,
        idempotency_key: None,
        submission: Digest::of(graph.as_bytes()),
        graph: Bytes::from_static(graph.as_bytes()),
        approval: Approval::of_nodes(&["9"]),
        order: None,
        active_jobs_max: 2,
        reservation: Reservation::default(),
        at: WallMillis(1),
    }
}

pub(crate) async fn accepted(ledger: &impl Ledger, tenant: &str, name: &str) -> Job {
    match ledger.accept(submission(tenant, name, "{}")).await.unwrap() {
        Accepted::New(job) => job,
        Accepted::Again(job) => panic!("{job:?} was there"),
    }
}

pub(crate) async fn assigned(ledger: &impl Ledger, job: &Job) -> AttemptId {
    let job = ledger.assign(job.id, job.version, &"gpu0".parse().unwrap(), WallMillis(2)).await.unwrap();
    AttemptId { job: job.id, n: job.attempts.last().unwrap().n }
}

/// A held job whose one attempt was lost; with its end asked for meanwhile, if `cancelled`.
async fn lost(ledger: &impl Ledger, name: &str, cancelled: bool) -> Job {
    let job = accepted(ledger, "a", name).await;
    let attempt = assigned(ledger, &job).await;
    if cancelled {
        ledger.request_cancel(&owned(ledger, &job).await).await.unwrap();
    }
    ledger.lose(attempt, "it died", Reached::Perhaps).await.unwrap()
}

async fn owned(ledger: &impl Ledger, job: &Job) -> OwnedPrompt {
    ledger.owned_prompt(&job.owner.scope(), &job.prompt_id).await.unwrap()
}

/// The names in the whole history of `tenant`.
async fn remembered(ledger: &impl Ledger, tenant: &str) -> Vec<String> {
    let entries = ledger.history(&owner(tenant).scope(), HistoryPage::default()).await.unwrap();
    entries.iter().map(|(prompt, _)| prompt.job().prompt_id.to_string()).collect()
}

pub(in crate::record) fn image(group: u64, pointer: &str) -> NewFile {
    NewFile {
        id: FileId::new(),
        content: Digest::of(b"image"),
        bytes: 5,
        directory: Directory::Output,
        subfolder: String::new(),
        name: NewName::Numbered { prefix: "ComfyUI".into(), group, suffix: "_.png".into() },
        content_type: "image/png".into(),
        pointer: pointer.into(),
    }
}

pub(in crate::record) fn two_images() -> JobResult {
    let outputs = serde_json::json!({"9": {"images": [{"filename": "x"}, {"filename": "y"}]}});
    JobResult { outputs: outputs.as_object().unwrap().clone(), ..JobResult::default() }
}

pub(super) async fn repeats_are_recognised_and_other_submissions_refused(ledger: &impl Ledger) {
    let job = accepted(ledger, "a", "p").await;
    assert_eq!(job.number, 0);
    assert_eq!(ledger.accept(submission("a", "p", "{}")).await.unwrap(), Accepted::Again(job.clone()));
    assert!(matches!(ledger.accept(submission("a", "p", "[]")).await, Err(LedgerError::Conflict { .. })));
    let keyed = Acceptance { idempotency_key: Some("k".into()), ..submission("a", "q", "{}") };
    let Accepted::New(second) = ledger.accept(keyed.clone()).await.unwrap() else { panic!("not new") };
    assert_eq!(ledger.accept(Acceptance { prompt_id: None, ..keyed.clone() }).await.unwrap(), Accepted::Again(second));
    let renamed = Acceptance { prompt_id: Some("r".parse().unwrap()), ..keyed };
    assert!(matches!(ledger.accept(renamed).await, Err(LedgerError::Conflict { .. })));
    assert_eq!(ledger.graph(&job.submission).await.unwrap(), "{}");
}

pub(super) async fn a_tenant_has_no_more_active_jobs_than_it_may(ledger: &impl Ledger) {
    let first = accepted(ledger, "a", "p").await;
    accepted(ledger, "a", "q").await;
    let refused = ledger.accept(submission("a", "r", "{}")).await;
    assert!(matches!(refused, Err(LedgerError::TooManyJobs { active: 2, limit: 2 })));
    accepted(ledger, "b", "r").await;
    ledger.end_held(first.id, first.version, Outcome::Cancelled, None, WallMillis(3)).await.unwrap();
    accepted(ledger, "a", "r").await;
}

pub(super) async fn what_is_anothers_is_not_there(ledger: &impl Ledger) {
    let job = accepted(ledger, "a", "p").await;
    let (own, other) = (owner("a").scope(), owner("b").scope());
    assert_eq!(ledger.owned_prompt(&own, &job.prompt_id).await.unwrap().job(), &job);
    assert!(matches!(ledger.owned_prompt(&other, &job.prompt_id).await, Err(LedgerError::NotFound { .. })));
    assert_eq!(ledger.queue_remaining(&own).await.unwrap(), 1);
    assert!(ledger.queue(&other).await.unwrap().is_empty());
}

pub(super) async fn exactly_one_attempt_is_committed(ledger: &impl Ledger) {
    let job = accepted(ledger, "a", "p").await;
    let first = assigned(ledger, &job).await;
    let stale = ledger.assign(job.id, job.version, &"gpu1".parse().unwrap(), WallMillis(2)).await;
    assert!(matches!(stale, Err(LedgerError::Stale { .. })));
    ledger.start(first, WallMillis(3)).await.unwrap();
    let held = ledger.lose(first, "it died", Reached::Perhaps).await.unwrap();
    let second = assigned(ledger, &held).await;
    let late = ledger.commit(first, Outcome::Succeeded, JobResult::default(), vec![], WallMillis(4)).await;
    assert!(matches!(late, Err(LedgerError::WrongState { .. })));
    let (ended, _) =
        ledger.commit(second, Outcome::Succeeded, JobResult::default(), vec![], WallMillis(4)).await.unwrap();
    assert_eq!(ended.state, JobState::Ended(Outcome::Succeeded));
    let again = ledger.commit(second, Outcome::Failed, JobResult::default(), vec![], WallMillis(5)).await;
    assert!(matches!(again, Err(LedgerError::WrongState { .. })));
    assert!(ledger.active_jobs().await.unwrap().is_empty());
}

pub(super) async fn an_attempt_is_noted_as_sent_once_and_only_while_it_is_the_current_one(ledger: &impl Ledger) {
    let job = accepted(ledger, "a", "p").await;
    let first = assigned(ledger, &job).await;
    let sent = ledger.send(first).await.unwrap();
    assert!(sent.attempts[0].sent);
    assert_eq!(ledger.send(first).await.unwrap(), sent);
    let held = ledger.lose(first, "it died", Reached::Perhaps).await.unwrap();
    assert!(held.attempts[0].sent);
    assert!(matches!(ledger.send(first).await, Err(LedgerError::WrongState { .. })));
    let second = assigned(ledger, &held).await;
    assert!(!ledger.active_jobs().await.unwrap()[0].attempts[1].sent);
    assert!(matches!(ledger.send(first).await, Err(LedgerError::WrongState { .. })));
    assert!(ledger.send(second).await.unwrap().attempts[1].sent);
}

pub(super) async fn files_are_numbered_as_one_comfyui_would(ledger: &impl Ledger) {
    for shown in [["ComfyUI_00001_.png", "ComfyUI_00002_.png"], ["ComfyUI_00003_.png", "ComfyUI_00004_.png"]] {
        let attempt = assigned(ledger, &accepted(ledger, "a", shown[0].trim_end_matches("_.png")).await).await;
        // Upstream number 7 stands second in the result.
        let files = vec![image(7, "/9/images/1"), image(3, "/9/images/0")];
        let (_, result) = ledger.commit(attempt, Outcome::Succeeded, two_images(), files, WallMillis(4)).await.unwrap();
        assert_eq!(result.outputs["9"]["images"][0]["filename"], shown[0]);
        assert_eq!(result.outputs["9"]["images"][1]["filename"], shown[1]);
        assert_eq!(result.outputs["9"]["images"][1]["type"], "output");
        let row = ledger.owned_file(&owner("a").scope(), Directory::Output, "", shown[1]).await.unwrap();
        assert_eq!(row.id, result.files[0].id);
        assert_eq!(ledger.file(row.id).await.unwrap(), row);
        let other = ledger.owned_file(&owner("b").scope(), Directory::Output, "", shown[1]).await;
        assert!(matches!(other, Err(LedgerError::NotFound { .. })));
    }
}

pub(super) async fn a_pointer_without_file_object_refuses_the_commit_and_leaves_the_job(ledger: &impl Ledger) {
    let attempt = assigned(ledger, &accepted(ledger, "a", "p").await).await;
    let refused =
        ledger.commit(attempt, Outcome::Succeeded, two_images(), vec![image(1, "/9/images/2")], WallMillis(4));
    assert!(matches!(refused.await, Err(LedgerError::NotFound { .. })));
    let kept = ledger.commit(attempt, Outcome::Succeeded, two_images(), vec![image(1, "/9/images/1")], WallMillis(4));
    assert_eq!(kept.await.unwrap().1.outputs["9"]["images"][1]["filename"], "ComfyUI_00001_.png");
}

pub(super) async fn history_keeps_the_order_of_ends_and_knows_no_cancelled_job(ledger: &impl Ledger) {
    let (p, q) = (accepted(ledger, "a", "p").await, accepted(ledger, "a", "q").await);
    ledger.end_held(q.id, q.version, Outcome::Failed, None, WallMillis(3)).await.unwrap();
    ledger.end_held(p.id, p.version, Outcome::Failed, None, WallMillis(4)).await.unwrap();
    let c = accepted(ledger, "a", "c").await;
    ledger.end_held(c.id, c.version, Outcome::Cancelled, None, WallMillis(5)).await.unwrap();
    let scope = owner("a").scope();
    let names = async |page| {
        let entries = ledger.history(&scope, page).await.unwrap();
        entries.iter().map(|(prompt, _)| prompt.job().prompt_id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(HistoryPage::default()).await, ["q", "p"]);
    assert_eq!(names(HistoryPage { max_items: Some(1), offset: None }).await, ["p"]);
    assert_eq!(names(HistoryPage { max_items: Some(1), offset: Some(0) }).await, ["q"]);
    assert!(names(HistoryPage { max_items: Some(0), offset: None }).await.is_empty());
    let prompt = ledger.owned_prompt(&scope, &q.prompt_id).await.unwrap();
    ledger.forget(&prompt).await.unwrap();
    assert_eq!(names(HistoryPage::default()).await, ["p"]);
    accepted(ledger, "a", "q").await;
}

/// On a ledger that remembers two ended jobs a scope.
pub(super) async fn beyond_the_most_ended_jobs_the_oldest_is_forgotten(ledger: &impl Ledger) {
    let mut files = Vec::new();
    for name in ["p", "q"] {
        let keyed = Acceptance { idempotency_key: Some(name.into()), ..submission("a", name, "{}") };
        let Accepted::New(job) = ledger.accept(keyed).await.unwrap() else { panic!("not new") };
        let (attempt, file) = (assigned(ledger, &job).await, image(1, "/9/images/0"));
        files.push(file.id);
        ledger.commit(attempt, Outcome::Succeeded, two_images(), vec![file], WallMillis(4)).await.unwrap();
    }
    let other = accepted(ledger, "b", "p").await;
    ledger.end_held(other.id, other.version, Outcome::Failed, None, WallMillis(5)).await.unwrap();
    let oldest = ledger.owned_prompt(&owner("a").scope(), &"p".parse().unwrap()).await.unwrap();
    assert_eq!(remembered(ledger, "a").await, ["p", "q"]);

    let job = accepted(ledger, "a", "r").await;
    ledger.end_held(job.id, job.version, Outcome::Failed, None, WallMillis(6)).await.unwrap();
    assert_eq!(remembered(ledger, "a").await, ["q", "r"]);
    assert_eq!(remembered(ledger, "b").await, ["p"]);
    assert_eq!(ledger.result(&oldest).await.unwrap(), None);
    assert!(matches!(ledger.request_cancel(&oldest).await, Err(LedgerError::NotFound { .. })));
    // Its file is retention's; its name and its key are free.
    assert_eq!(ledger.file(files[0]).await.unwrap().job, Some(oldest.job().id));
    let again = Acceptance { idempotency_key: Some("p".into()), ..submission("a", "p", "[]") };
    assert!(matches!(ledger.accept(again).await.unwrap(), Accepted::New(_)));
}

/// On a ledger that remembers two ended jobs a scope.
pub(super) async fn deleted_jobs_push_no_other_out_of_the_history_and_are_no_more_than_it_may_hold(
    ledger: &impl Ledger,
) {
    for name in ["p", "q"] {
        let job = accepted(ledger, "a", name).await;
        ledger.end_held(job.id, job.version, Outcome::Failed, None, WallMillis(5)).await.unwrap();
    }
    let mut deleted = Vec::new();
    for name in ["x", "y", "z"] {
        let job = accepted(ledger, "a", name).await;
        deleted.push(ledger.end_held(job.id, job.version, Outcome::Cancelled, None, WallMillis(6)).await.unwrap());
    }
    assert_eq!(remembered(ledger, "a").await, ["p", "q"]);
    let scope = owner("a").scope();
    assert!(matches!(ledger.owned_prompt(&scope, &deleted[0].prompt_id).await, Err(LedgerError::NotFound { .. })));
    for job in &deleted[1..] {
        assert_eq!(ledger.owned_prompt(&scope, &job.prompt_id).await.unwrap().job(), job);
    }
    // One that is forgotten makes room among its own.
    ledger.forget(&ledger.owned_prompt(&scope, &deleted[1].prompt_id).await.unwrap()).await.unwrap();
    let job = accepted(ledger, "a", "w").await;
    ledger.end_held(job.id, job.version, Outcome::Cancelled, None, WallMillis(7)).await.unwrap();
    assert!(ledger.owned_prompt(&scope, &deleted[2].prompt_id).await.is_ok());
    assert_eq!(remembered(ledger, "a").await, ["p", "q"]);
}

/// On a ledger that remembers two ended jobs a scope.
pub(super) async fn a_forgotten_job_makes_room_for_another_ended_one(ledger: &impl Ledger) {
    for name in ["p", "q", "r"] {
        let job = accepted(ledger, "a", name).await;
        let ended = ledger.end_held(job.id, job.version, Outcome::Failed, None, WallMillis(3)).await.unwrap();
        if name == "q" {
            ledger.forget(&owned(ledger, &ended).await).await.unwrap();
        }
    }
    assert_eq!(remembered(ledger, "a").await, ["p", "r"]);
}

pub(super) async fn an_end_is_asked_for_once_of_an_assigned_or_running_job(ledger: &impl Ledger) {
    let (p, q) = (accepted(ledger, "a", "p").await, accepted(ledger, "a", "q").await);
    assigned(ledger, &p).await;
    ledger.start(assigned(ledger, &q).await, WallMillis(3)).await.unwrap();
    for (job, state, version) in [(p, JobState::Assigned, 2), (q, JobState::Running, 3)] {
        let prompt = owned(ledger, &job).await;
        let asked = ledger.request_cancel(&prompt).await.unwrap();
        assert_eq!((asked.state, asked.cancel_requested, asked.version), (state, true, version));
        assert_eq!(ledger.request_cancel(&prompt).await.unwrap(), asked);
        assert_eq!(owned(ledger, &job).await.job(), &asked);
    }
}

pub(super) async fn a_held_or_ended_job_is_left_as_it_is_when_its_end_is_asked_for(ledger: &impl Ledger) {
    let held = accepted(ledger, "a", "p").await;
    let prompt = owned(ledger, &held).await;
    assert_eq!(ledger.request_cancel(&prompt).await.unwrap(), held);
    let ended = ledger.end_held(held.id, held.version, Outcome::Failed, None, WallMillis(3)).await.unwrap();
    assert_eq!(ledger.request_cancel(&prompt).await.unwrap(), ended);
    assert!(!ended.cancel_requested);
    // One that was lost before the wish came is held: whoever asks ends it, as any held job.
    let lost = lost(ledger, "q", false).await;
    assert_eq!(ledger.request_cancel(&owned(ledger, &lost).await).await.unwrap(), lost);
}

pub(super) async fn a_held_job_is_interrupted_only_if_its_end_was_asked_for(ledger: &impl Ledger) {
    let unasked = lost(ledger, "p", false).await;
    let refused = ledger.end_held(unasked.id, unasked.version, Outcome::Interrupted, None, WallMillis(5)).await;
    assert!(matches!(refused, Err(LedgerError::WrongState { found: JobState::Held, .. })), "{refused:?}");
    assert_eq!(owned(ledger, &unasked).await.job(), &unasked);
    let asked = lost(ledger, "q", true).await;
    assert!(asked.cancel_requested);
    let ended = ledger.end_held(asked.id, asked.version, Outcome::Interrupted, None, WallMillis(5)).await.unwrap();
    assert_eq!(ended.state, JobState::Ended(Outcome::Interrupted));
    let result = ledger.result(&owned(ledger, &ended).await).await.unwrap().unwrap();
    assert_eq!(result.ended_at, Some(WallMillis(5)));
    assert_eq!(remembered(ledger, "a").await, ["q"]);
}

pub(super) async fn no_held_job_succeeds(ledger: &impl Ledger) {
    for job in [accepted(ledger, "a", "p").await, lost(ledger, "q", true).await] {
        let refused = ledger.end_held(job.id, job.version, Outcome::Succeeded, Some(two_images()), WallMillis(5)).await;
        assert!(matches!(refused, Err(LedgerError::WrongState { .. })), "{refused:?}");
        assert_eq!(owned(ledger, &job).await.job(), &job);
    }
    assert!(remembered(ledger, "a").await.is_empty());
}

pub(super) async fn no_attempt_is_committed_as_cancelled_and_no_ended_or_assigned_job_is_ended_as_held(
    ledger: &impl Ledger,
) {
    let attempt = assigned(ledger, &accepted(ledger, "a", "p").await).await;
    let refused = ledger.commit(attempt, Outcome::Cancelled, JobResult::default(), vec![], WallMillis(4)).await;
    assert!(matches!(refused, Err(LedgerError::WrongState { found: JobState::Assigned, .. })));
    let refused = ledger.end_held(attempt.job, 1, Outcome::Cancelled, None, WallMillis(4)).await;
    assert!(matches!(refused, Err(LedgerError::WrongState { found: JobState::Assigned, .. })));
    let interrupted = ledger.commit(attempt, Outcome::Interrupted, JobResult::default(), vec![], WallMillis(4)).await;
    let (ended, _) = interrupted.unwrap();
    let refused = ledger.end_held(ended.id, ended.version, Outcome::Failed, None, WallMillis(5)).await;
    assert!(matches!(refused, Err(LedgerError::WrongState { found: JobState::Ended(_), .. })));
}

/// A key of `tenant`.
pub(crate) fn key_row(id: &str, tenant: &str) -> KeyRow {
    KeyRow {
        id: id.parse().unwrap(),
        owner: Owner { key: Some(id.parse().unwrap()), ..owner(tenant) },
        scopes: Scopes::of_a_client(),
        secret_hash: Digest::of(tenant.as_bytes()),
        label: None,
        created_at: WallMillis(1),
        expires_at: None,
        revoked_at: None,
        allow_query: false,
        used_at: None,
        rotated_from: None,
        rotated_to: None,
        made_by: None,
    }
}

pub(super) async fn a_key_is_stored_once_under_its_id(ledger: &impl Ledger) {
    let (first, second) = (key_row("bbbbbbbbbbbb", "a"), key_row("aaaaaaaaaaaa", "b"));
    ledger.insert_key(first.clone()).await.unwrap();
    for repeat in [first.clone(), key_row("bbbbbbbbbbbb", "b")] {
        assert!(matches!(ledger.insert_key(repeat).await, Err(LedgerError::Conflict { .. })));
    }
    ledger.insert_key(second.clone()).await.unwrap();
    assert_eq!(ledger.key(&first.id).await.unwrap(), first);
    assert_eq!(ledger.keys().await.unwrap(), [second, first]);
}

pub(super) async fn a_key_is_revoked_once_and_stays_so(ledger: &impl Ledger) {
    let key = key_row("aaaaaaaaaaaa", "a");
    let unknown = ledger.revoke_key(&key.id, WallMillis(4)).await;
    assert!(matches!(unknown, Err(LedgerError::NotFound { what: "key" })));
    assert!(matches!(ledger.key(&key.id).await, Err(LedgerError::NotFound { what: "key" })));
    ledger.insert_key(key.clone()).await.unwrap();
    let revoked = KeyRow { revoked_at: Some(WallMillis(5)), ..key.clone() };
    for at in [5, 6] {
        assert_eq!(ledger.revoke_key(&key.id, WallMillis(at)).await.unwrap(), revoked);
    }
    // Storing it anew does not bring it back.
    assert!(matches!(ledger.insert_key(key.clone()).await, Err(LedgerError::Conflict { .. })));
    assert_eq!(ledger.key(&key.id).await.unwrap(), revoked);
}

pub(super) async fn secrets_are_drawn_once_for_each_scope_and_backend(ledger: &impl Ledger) {
    let ann = OwnerScope { user: Some("ann".parse().unwrap()), ..owner("a").scope() };
    let mut salts = Vec::new();
    for scope in [owner("a").scope(), owner("b").scope(), ann] {
        let drawn = ledger.owner_secrets(&scope).await.unwrap();
        assert!(ledger.owner_secrets(&scope).await.unwrap() == drawn, "drawn anew");
        assert_eq!((drawn.salt.len(), drawn.folder.len()), (32, 16));
        salts.extend([drawn.salt, drawn.folder]);
    }
    salts.sort();
    salts.dedup();
    assert_eq!(salts.len(), 6);
    let (one, other) = ("gpu0".parse().unwrap(), "gpu1".parse().unwrap());
    let drawn = ledger.upstream_client(&one).await.unwrap();
    assert_eq!(ledger.upstream_client(&one).await.unwrap(), drawn);
    assert_ne!(ledger.upstream_client(&other).await.unwrap(), drawn);
}

fn as_is(name: &str, directory: Directory, pointer: &str) -> NewFile {
    NewFile { name: NewName::AsIs(name.into()), directory, ..image(0, pointer) }
}

/// Commits a job of `tenant` with these files; gives their rows and the shown names in their order.
async fn committed(ledger: &impl Ledger, tenant: &str, job: &str, files: Vec<NewFile>) -> Vec<FileRow> {
    let attempt = assigned(ledger, &accepted(ledger, tenant, job).await).await;
    let (_, result) = ledger.commit(attempt, Outcome::Succeeded, two_images(), files, WallMillis(4)).await.unwrap();
    let mut rows = Vec::new();
    for file in result.files {
        rows.push(ledger.file(file.id).await.unwrap());
    }
    rows
}

fn names(rows: &[FileRow]) -> Vec<&str> {
    rows.iter().map(|row| row.filename.as_str()).collect()
}

pub(super) async fn a_name_as_it_is_is_taken_over_and_the_older_file_stays_under_its_id(ledger: &impl Ledger) {
    let scope = owner("a").scope();
    let preview = || vec![as_is("x.png", Directory::Temp, "/9/images/0")];
    let older = committed(ledger, "a", "p", preview()).await;
    let elsewhere = committed(ledger, "a", "q", vec![as_is("x.png", Directory::Output, "/9/images/0")]).await;
    let others = committed(ledger, "b", "p", preview()).await;
    assert_eq!(ledger.owned_file(&scope, Directory::Temp, "", "x.png").await.unwrap(), older[0]);
    let newer = committed(ledger, "a", "r", preview()).await;
    assert_eq!(names(&newer), ["x.png"]);
    assert_eq!(ledger.owned_file(&scope, Directory::Temp, "", "x.png").await.unwrap(), newer[0]);
    assert_eq!(ledger.file(older[0].id).await.unwrap(), older[0]);
    // Neither the same name of another directory nor another's is touched.
    assert_eq!(ledger.owned_file(&scope, Directory::Output, "", "x.png").await.unwrap(), elsewhere[0]);
    assert_eq!(ledger.owned_file(&owner("b").scope(), Directory::Temp, "", "x.png").await.unwrap(), others[0]);
}

pub(super) async fn a_number_passes_over_a_name_that_stands_as_it_is(ledger: &impl Ledger) {
    for (job, name) in [("p", "ComfyUI_00001_.png"), ("q", "ComfyUI_00003_.png")] {
        committed(ledger, "a", job, vec![as_is(name, Directory::Output, "/9/images/0")]).await;
    }
    // One of another suffix or directory is not in the way.
    let aside = vec![
        as_is("ComfyUI_00002_.webp", Directory::Output, "/9/images/0"),
        as_is("ComfyUI_00002_.png", Directory::Temp, "/9/images/1"),
    ];
    committed(ledger, "a", "r", aside).await;
    let rows = committed(ledger, "a", "s", vec![image(1, "/9/images/0"), image(2, "/9/images/1")]).await;
    assert_eq!(names(&rows), ["ComfyUI_00002_.png", "ComfyUI_00004_.png"]);
}

pub(super) async fn files_of_one_group_share_a_number_and_those_of_two_do_not(ledger: &impl Ledger) {
    let video = |group, pointer| {
        let name = NewName::Numbered { prefix: "ComfyUI".into(), group, suffix: "_.mp4".into() };
        NewFile { name, ..image(group, pointer) }
    };
    let rows = committed(ledger, "a", "p", vec![image(5, "/9/images/0"), video(5, "/9/images/1")]).await;
    assert_eq!(names(&rows), ["ComfyUI_00001_.png", "ComfyUI_00001_.mp4"]);
    let rows = committed(ledger, "a", "q", vec![image(6, "/9/images/0"), video(5, "/9/images/1")]).await;
    assert_eq!(names(&rows), ["ComfyUI_00003_.png", "ComfyUI_00002_.mp4"]);
    // A number that one of the group's names can't have, none of them gets.
    committed(ledger, "a", "r", vec![as_is("ComfyUI_00004_.mp4", Directory::Output, "/9/images/0")]).await;
    let rows = committed(ledger, "a", "s", vec![image(5, "/9/images/0"), video(5, "/9/images/1")]).await;
    assert_eq!(names(&rows), ["ComfyUI_00005_.png", "ComfyUI_00005_.mp4"]);
}

pub(super) async fn each_prefix_folder_directory_and_scope_has_numbers_of_its_own(ledger: &impl Ledger) {
    committed(ledger, "a", "p", vec![image(1, "/9/images/0")]).await;
    let dog = NewName::Numbered { prefix: "dog".into(), group: 1, suffix: "_.png".into() };
    let others = vec![
        NewFile { name: dog, ..image(1, "/9/images/0") },
        NewFile { subfolder: "sub".into(), ..image(1, "/9/images/0") },
        NewFile { directory: Directory::Temp, ..image(1, "/9/images/1") },
    ];
    let first = ["dog_00001_.png", "ComfyUI_00001_.png", "ComfyUI_00001_.png"];
    assert_eq!(names(&committed(ledger, "a", "q", others).await), first);
    assert_eq!(names(&committed(ledger, "b", "p", vec![image(1, "/9/images/0")]).await), ["ComfyUI_00001_.png"]);
    assert_eq!(names(&committed(ledger, "a", "r", vec![image(1, "/9/images/0")]).await), ["ComfyUI_00002_.png"]);
}

/// Facts §8.2, on five entries.
#[test]
fn a_page_is_cut_as_comfyui_cuts_it() {
    let cut = |max_items, offset| HistoryPage { max_items, offset }.cut(5);
    assert_eq!(cut(None, None), 0..5);
    // Without an offset, or with a negative one: the newest.
    for offset in [None, Some(-1), Some(i64::MIN)] {
        assert_eq!(cut(Some(2), offset), 3..5);
        assert_eq!(cut(Some(5), offset), 0..5);
        assert_eq!(cut(Some(6), offset), 0..5);
        assert_eq!(cut(Some(i64::MAX), offset), 0..5);
        assert_eq!(cut(None, offset), 0..5);
    }
    // With one: as many from there on.
    assert_eq!(cut(Some(2), Some(0)), 0..2);
    assert_eq!(cut(Some(2), Some(3)), 3..5);
    assert_eq!(cut(Some(2), Some(4)), 4..5);
    assert_eq!(cut(Some(i64::MAX), Some(4)), 4..5);
    assert_eq!(cut(None, Some(4)), 4..5);
}

#[test]
fn a_page_of_none_or_fewer_or_from_beyond_the_end_is_empty() {
    let cut = |max_items, offset, length| HistoryPage { max_items, offset }.cut(length);
    for offset in [None, Some(-1), Some(0), Some(4), Some(5), Some(i64::MAX)] {
        for max_items in [0, -1, i64::MIN] {
            assert!(cut(Some(max_items), offset, 5).is_empty(), "{max_items} from {offset:?}");
        }
        for max_items in [None, Some(0), Some(1), Some(-1), Some(i64::MAX)] {
            assert_eq!(cut(max_items, offset, 0), 0..0);
        }
    }
    for offset in [5, 6, i64::MAX] {
        assert_eq!(cut(None, Some(offset), 5), 5..5);
        assert_eq!(cut(Some(2), Some(offset), 5), 5..5);
    }
}

fn path(text: &str) -> UserPath {
    text.parse().unwrap()
}

fn write(at: &str, content: &'static str) -> UserWrite {
    let bounds = UserBounds { file_bytes_max: 8, tenant_bytes_max: 12 };
    UserWrite {
        path: path(at),
        content: Bytes::from_static(content.as_bytes()),
        replace: true,
        bounds,
        at: WallMillis(1),
    }
}

async fn paths(ledger: &impl Ledger, scope: &OwnerScope) -> Vec<String> {
    ledger.user_files(scope).await.unwrap().into_iter().map(|(path, _)| path.into()).collect()
}

pub(super) async fn userdata_is_its_scopes_alone(ledger: &impl Ledger) {
    let own = owner("a").scope();
    let others = [owner("b").scope(), OwnerScope { user: Some("u".parse().unwrap()), ..own.clone() }];
    ledger.write_user_file(&own, write("w/a.json", "1")).await.unwrap();
    for other in &others {
        assert!(matches!(ledger.user_file(other, &path("w/a.json")).await, Err(LedgerError::NotFound { .. })));
        let deleted = ledger.delete_user_file(other, &path("w/a.json")).await;
        assert!(matches!(deleted, Err(LedgerError::NotFound { .. })));
        let moved = ledger.move_user_file(other, &path("w/a.json"), &path("b"), true).await;
        assert!(matches!(moved, Err(LedgerError::NotFound { .. })));
        assert!(paths(ledger, other).await.is_empty());
        ledger.write_user_file(other, write("w/a.json", "2")).await.unwrap();
    }
    let (file, content) = ledger.user_file(&own, &path("w/a.json")).await.unwrap();
    assert_eq!((file.bytes, content), (1, Bytes::from_static(b"1")));
}

pub(super) async fn a_user_file_is_replaced_only_if_that_is_asked_for(ledger: &impl Ledger) {
    let own = owner("a").scope();
    ledger.write_user_file(&own, write("a", "1")).await.unwrap();
    let kept = ledger.write_user_file(&own, UserWrite { replace: false, ..write("a", "2") }).await;
    assert!(matches!(kept, Err(LedgerError::Exists { .. })));
    let later = UserWrite { at: WallMillis(5), ..write("a", "22") };
    let file = ledger.write_user_file(&own, later).await.unwrap();
    assert_eq!((file.created_at, file.modified_at, file.bytes), (WallMillis(1), WallMillis(5), 2));
    ledger.write_user_file(&own, write("b", "b")).await.unwrap();
    assert!(matches!(
        ledger.move_user_file(&own, &path("a"), &path("b"), false).await,
        Err(LedgerError::Exists { .. })
    ));
    ledger.move_user_file(&own, &path("a"), &path("b"), true).await.unwrap();
    ledger.move_user_file(&own, &path("b"), &path("b"), true).await.unwrap();
    assert_eq!(ledger.user_file(&own, &path("b")).await.unwrap().1, "22");
    assert_eq!(paths(ledger, &own).await, ["b"]);
}

pub(super) async fn no_user_file_is_a_folder_at_once(ledger: &impl Ledger) {
    let own = owner("a").scope();
    ledger.write_user_file(&own, write("a/b", "1")).await.unwrap();
    for clash in ["a", "a/b/c", "a/b/c/d"] {
        let refused = ledger.write_user_file(&own, write(clash, "2")).await;
        assert!(matches!(refused, Err(LedgerError::NoPlace { .. })), "{clash}");
    }
    ledger.write_user_file(&own, write("ab", "2")).await.unwrap();
    assert!(matches!(
        ledger.move_user_file(&own, &path("ab"), &path("a"), true).await,
        Err(LedgerError::NoPlace { .. })
    ));
    // What leaves is in nobody's way.
    ledger.move_user_file(&own, &path("a/b"), &path("a"), true).await.unwrap();
    ledger.move_user_file(&own, &path("a"), &path("a/b"), true).await.unwrap();
    assert_eq!(paths(ledger, &own).await, ["a/b", "ab"]);
}

pub(super) async fn userdata_has_room_for_so_many_bytes_of_a_tenant(ledger: &impl Ledger) {
    let own = owner("a").scope();
    let user = OwnerScope { user: Some("u".parse().unwrap()), ..own.clone() };
    ledger.write_user_file(&own, write("a", "12345678")).await.unwrap();
    assert!(matches!(
        ledger.write_user_file(&own, write("b", "123456789")).await,
        Err(LedgerError::Full { limit: 8, .. })
    ));
    assert!(matches!(
        ledger.write_user_file(&user, write("b", "12345")).await,
        Err(LedgerError::Full { limit: 12, .. })
    ));
    ledger.write_user_file(&user, write("b", "1234")).await.unwrap();
    ledger.write_user_file(&owner("b").scope(), write("b", "12345678")).await.unwrap();
    // What is replaced, deleted or moved over takes no room any more.
    ledger.write_user_file(&own, write("a", "1234")).await.unwrap();
    ledger.write_user_file(&own, write("c", "1234")).await.unwrap();
    assert!(matches!(ledger.write_user_file(&own, write("d", "1")).await, Err(LedgerError::Full { .. })));
    ledger.move_user_file(&own, &path("a"), &path("c"), true).await.unwrap();
    ledger.write_user_file(&own, write("d", "1234")).await.unwrap();
    ledger.delete_user_file(&user, &path("b")).await.unwrap();
    ledger.write_user_file(&own, write("e", "1234")).await.unwrap();
}

pub(super) async fn settings_are_merged_and_a_damaged_file_holds_none(ledger: &impl Ledger) {
    let (own, bounds) = (owner("a").scope(), UserBounds { file_bytes_max: 60, tenant_bytes_max: 60 });
    let set = async |changes: serde_json::Value| {
        ledger.change_settings(&own, changes.as_object().unwrap().clone(), bounds, WallMillis(1)).await
    };
    let stored = async || {
        let (_, content) = ledger.user_file(&own, &path("comfy.settings.json")).await.unwrap();
        String::from_utf8(content.to_vec()).unwrap()
    };
    set(serde_json::json!({"b": 1, "a": [null]})).await.unwrap();
    set(serde_json::json!({"b": 2})).await.unwrap();
    assert_eq!(stored().await, "{\n    \"b\": 2,\n    \"a\": [\n        null\n    ]\n}");
    assert!(matches!(set(serde_json::json!({"c": "x".repeat(60)})).await, Err(LedgerError::Full { .. })));
    let damaged = UserWrite { bounds, ..write("comfy.settings.json", "{") };
    ledger.write_user_file(&own, damaged).await.unwrap();
    set(serde_json::json!({"c": 3})).await.unwrap();
    assert_eq!(stored().await, "{\n    \"c\": 3\n}");
}

pub(super) async fn settings_are_at_most_a_mebibyte(ledger: &impl Ledger) {
    let (own, bounds) = (owner("a").scope(), UserBounds { file_bytes_max: 4 << 20, tenant_bytes_max: 4 << 20 });
    // As it is written: `{`, a line `    "a": "…"`, `}`.
    let most = (1 << 20) - "{\n    \"a\": \"\"\n}".len();
    let set = async |length: usize| {
        let changes = serde_json::json!({"a": "x".repeat(length)});
        ledger.change_settings(&own, changes.as_object().unwrap().clone(), bounds, WallMillis(1)).await
    };
    set(most).await.unwrap();
    assert!(matches!(set(most + 1).await, Err(LedgerError::Full { .. })));
    let large = Bytes::from(vec![b' '; (1 << 20) + 1]);
    ledger
        .write_user_file(&own, UserWrite { content: large, bounds, ..write("comfy.settings.json", "") })
        .await
        .unwrap();
    assert!(matches!(set(1).await, Err(LedgerError::Full { .. })));
}

pub(super) async fn jobs_are_listed_by_number_without_those_that_were_deleted(ledger: &impl Ledger) {
    let first = accepted(ledger, "a", "p").await;
    let second = accepted(ledger, "a", "q").await;
    ledger.end_held(first.id, first.version, Outcome::Failed, None, WallMillis(3)).await.unwrap();
    let third = accepted(ledger, "a", "r").await;
    ledger.end_held(second.id, second.version, Outcome::Cancelled, None, WallMillis(3)).await.unwrap();
    let listed = ledger.jobs(&owner("a").scope(), true).await.unwrap();
    let listed: Vec<_> = listed.iter().map(|prompt| prompt.job().id).collect();
    assert_eq!(listed, [first.id, third.id]);
    let waiting = ledger.jobs(&owner("a").scope(), false).await.unwrap();
    assert_eq!(waiting.iter().map(|prompt| prompt.job().id).collect::<Vec<_>>(), [third.id]);
    assert!(ledger.jobs(&owner("b").scope(), true).await.unwrap().is_empty());
}

pub(super) async fn names_are_paged_in_their_order_within_scope_and_directory(ledger: &impl Ledger) {
    let own = owner("a");
    for (directory, name) in [
        (Directory::Output, "b.png"),
        (Directory::Output, "a/c.png"),
        (Directory::Output, "a.png"),
        (Directory::Input, "d.png"),
    ] {
        let source = Adopted { content: Digest::of(name.as_bytes()), bytes: 1, modified_at: WallMillis(1) };
        let content_type = "image/png".into();
        let file = AdoptedFile {
            directory,
            path: path(name),
            source,
            content_type,
            facts: None,
            stored: true,
            at: WallMillis(9),
        };
        assert_eq!(ledger.adopt_file(&own, file).await.unwrap(), Adoption::New);
    }
    let scope = own.scope();
    let page = async |after: Option<(&str, &str)>| {
        let after = after.map(|(subfolder, name)| (subfolder.to_owned(), name.to_owned()));
        let rows = ledger.files_in(&scope, Directory::Output, after, 2).await.unwrap();
        rows.into_iter().map(|row| format!("{}/{}", row.subfolder, row.filename)).collect::<Vec<_>>()
    };
    assert_eq!(page(None).await, ["/a.png", "/b.png"]);
    assert_eq!(page(Some(("", "b.png"))).await, ["a/c.png"]);
    assert!(page(Some(("a", "c.png"))).await.is_empty());
    assert!(ledger.files_in(&owner("b").scope(), Directory::Output, None, 2).await.unwrap().is_empty());
}

pub(super) async fn a_content_that_is_not_stored_makes_no_file(ledger: &impl Ledger) {
    let own = owner("a");
    let source = Adopted { content: Digest::of(b"x"), bytes: 1, modified_at: WallMillis(1) };
    let file = |stored| AdoptedFile {
        directory: Directory::Input,
        path: path("x.png"),
        source,
        content_type: "image/png".into(),
        facts: None,
        stored,
        at: WallMillis(9),
    };
    assert_eq!(ledger.adopt_file(&own, file(false)).await.unwrap(), Adoption::Kept);
    let missing = ledger.owned_file(&own.scope(), Directory::Input, "", "x.png").await;
    assert!(matches!(missing, Err(LedgerError::NotFound { .. })));
    assert_eq!(ledger.adopted(&own.scope(), Place::Input, &path("x.png")).await.unwrap(), None);
    assert_eq!(ledger.adopt_file(&own, file(true)).await.unwrap(), Adoption::New);
    assert_eq!(ledger.adopted(&own.scope(), Place::Input, &path("x.png")).await.unwrap(), Some(source));
}
