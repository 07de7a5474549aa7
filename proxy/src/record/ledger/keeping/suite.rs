//! What every form of the ledger must do when things are removed.

use super::*;
use crate::inspect::contents::{ContentFacts, ContentKind};
use crate::owner::{Owner, OwnerScope};
use crate::record::ledger::uploads::{NewUpload, Pin};
use crate::record::ledger::user_files::{Adopted, AdoptedFile, UserBounds, UserWrite};
use crate::record::ledger::{
    Acceptance, Accepted, Approval, Directory, HistoryPage, Job, JobResult, Ledger, LedgerError, NewFile, Outcome,
    OwnedPrompt, SentPicture, suite,
};

fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

fn scope(name: &str) -> OwnerScope {
    OwnerScope { tenant: tenant(name), user: None }
}

/// A job that has ended at `at` and left one file.
async fn made(ledger: &impl Ledger, owner: &str, name: &str, content: &'static [u8], at: u64) -> (Job, FileId) {
    let attempt = suite::assigned(ledger, &suite::accepted(ledger, owner, name).await).await;
    let file = NewFile { content: Digest::of(content), bytes: content.len() as u64, ..suite::image(1, "/9/images/0") };
    let id = file.id;
    let committed =
        ledger.commit(attempt, Outcome::Succeeded, suite::two_images(), vec![file], WallMillis(at)).await.unwrap();
    (committed.0, id)
}

/// A job that has ended at `at` and sent these pictures.
async fn sent(ledger: &impl Ledger, owner: &str, name: &str, contents: &[&[u8]], at: u64) -> Job {
    let attempt = suite::assigned(ledger, &suite::accepted(ledger, owner, name).await).await;
    let picture = |content: &&[u8]| SentPicture {
        node: "9".into(),
        content: Digest::of(content),
        bytes: content.len() as u64,
        content_type: "image/png".into(),
        metadata: serde_json::Map::new(),
    };
    let result = JobResult { sent: contents.iter().map(picture).collect(), ..suite::two_images() };
    ledger.commit(attempt, Outcome::Succeeded, result, vec![], WallMillis(at)).await.unwrap().0
}

async fn uploaded(ledger: &impl Ledger, owner: &str, name: &str, content: &[u8], at: u64) -> FileId {
    let upload = NewUpload {
        id: FileId::new(),
        owner: Owner { tenant: tenant(owner), user: None, key: None, shared: false },
        content: Digest::of(content),
        bytes: content.len() as u64,
        facts: ContentFacts { kind: ContentKind::Png, width: 3, height: 2, frames: 1, seconds: None },
        directory: Directory::Input,
        subfolder: String::new(),
        filename: name.into(),
        overwrite: false,
        storage_bytes_max: 1000,
        at: WallMillis(at),
    };
    ledger.keep_upload(upload).await.unwrap().id
}

/// A held job that has pinned that file.
async fn pinning(ledger: &impl Ledger, owner: &str, name: &str, file: FileId, at: u64) -> Job {
    let row = ledger.file(file).await.unwrap();
    let facts = ContentFacts { kind: ContentKind::Png, width: 3, height: 2, frames: 1, seconds: None };
    let (content, bytes, directory) = (row.content, row.bytes, row.directory);
    let pin = Pin { name: row.filename, directory, file, content, bytes, facts };
    let submission = Acceptance {
        approval: Approval::of_files(vec![pin]),
        at: WallMillis(at),
        ..suite::submission(owner, name, "{}")
    };
    match ledger.accept(submission).await.unwrap() {
        Accepted::New(job) | Accepted::Again(job) => job,
    }
}

async fn ids(ledger: &impl Ledger, owner: &str, due: Due) -> Vec<(u128, Why)> {
    let page = ledger.due(&tenant(owner), due, None).await.unwrap();
    assert_eq!(page.next, None);
    page.items.iter().map(|item| (item.place.id, item.why)).collect()
}

async fn removed(ledger: &impl Ledger, owner: &str, due: Due, at: u64) -> Removed {
    let page = ledger.due(&tenant(owner), due, None).await.unwrap();
    ledger.remove(&tenant(owner), page.items, WallMillis(at)).await.unwrap()
}

fn id(file: FileId) -> u128 {
    u128::from_be_bytes(file.bytes())
}

fn aged(before: u64) -> Due {
    let before = Some(WallMillis(before));
    Due { results_before: before, uploads_before: before, ..Due::default() }
}

fn old(before: u64) -> Due {
    Due { history_before: Some(WallMillis(before)), ..Due::default() }
}

fn over(max: u64) -> Due {
    Due { result_bytes_max: Some(max), over_bytes_before: WallMillis(u64::MAX), ..Due::default() }
}

async fn result(ledger: &impl Ledger, job: &Job) -> JobResult {
    let prompt = ledger.owned_prompt(&job.owner.scope(), &job.prompt_id).await.unwrap();
    ledger.result(&prompt).await.unwrap().unwrap()
}

/// Whether no row names a content any more.
async fn unnamed(ledger: &impl Ledger, content: &[u8]) -> bool {
    is_doomed(ledger, Store::Blobs, Digest::of(content)).await
}

async fn is_doomed(ledger: &impl Ledger, store: Store, content: Digest) -> bool {
    let doomed = ledger.doomed(store, WallMillis(u64::MAX)).await.unwrap();
    // Whoever walks over all contents leaves it to its grace.
    assert_eq!(ledger.unnamed(store, vec![content]).await.unwrap(), []);
    doomed.iter().any(|doomed| doomed.content == content)
}

pub(in crate::record::ledger) async fn a_result_of_the_age_stays_and_an_older_one_goes_and_its_history_tells_when(
    ledger: &impl Ledger,
) {
    let (job, file) = made(ledger, "a", "p", b"one", 100).await;
    assert_eq!(ids(ledger, "a", aged(100)).await, []);
    assert_eq!(ids(ledger, "a", Due::default()).await, [], "nothing is due where nothing is set");
    assert_eq!(ids(ledger, "a", aged(101)).await, [(id(file), Why::Age)]);
    assert_eq!(ids(ledger, "b", aged(101)).await, [], "another tenant's is not there");
    let gone = removed(ledger, "a", aged(101), 500).await;
    assert_eq!(gone.results_by_age, Amount { count: 1, bytes: 3 });
    assert!(matches!(ledger.file(file).await, Err(LedgerError::NotFound { .. })));
    let name = ledger.owned_file(&scope("a"), Directory::Output, "", "ComfyUI_00001_.png").await;
    assert!(matches!(name, Err(LedgerError::NotFound { .. })));
    let told = result(ledger, &job).await;
    assert_eq!((told.files[0].id, told.files[0].removed_at), (file, Some(WallMillis(500))));
    assert_eq!(told.outputs["9"]["images"][0]["filename"], "ComfyUI_00001_.png", "the object stays");
    assert_eq!(ledger.result_bytes(&tenant("a")).await.unwrap(), 0);
    assert_eq!(removed(ledger, "a", aged(101), 501).await, Removed::default());
    // Numbers go on after a file that is gone: its name does not come back as another's.
    let (next, _) = made(ledger, "a", "q", b"two", 600).await;
    assert_eq!(result(ledger, &next).await.outputs["9"]["images"][0]["filename"], "ComfyUI_00002_.png");
}

pub(in crate::record::ledger) async fn as_many_bytes_as_may_be_stay_and_beyond_them_the_oldest_go(
    ledger: &impl Ledger,
) {
    let (_, first) = made(ledger, "a", "p", b"one", 100).await;
    let second = sent(ledger, "a", "q", &[b"two", b"three"], 200).await;
    let (_, third) = made(ledger, "a", "r", b"four", 300).await;
    uploaded(ledger, "a", "x.png", b"not a result", 1).await;
    assert_eq!(ledger.result_bytes(&tenant("a")).await.unwrap(), 15);
    assert_eq!(ids(ledger, "a", over(15)).await, []);
    assert_eq!(ids(ledger, "a", over(14)).await, [(id(first), Why::Bytes)]);
    let sent_id = u128::from_be_bytes(second.id.bytes());
    assert_eq!(ids(ledger, "a", over(11)).await, [(id(first), Why::Bytes), (sent_id, Why::Bytes)]);
    assert_eq!(ids(ledger, "a", over(0)).await.last(), Some(&(id(third), Why::Bytes)));
    let fresh = Due { over_bytes_before: WallMillis(100), ..over(0) };
    assert_eq!(ids(ledger, "a", fresh).await, [], "what has just been made may be fetched");
    // What goes by age makes room: nothing more goes by bytes.
    let both = Due { results_before: Some(WallMillis(101)), ..over(12) };
    assert_eq!(ids(ledger, "a", both).await, [(id(first), Why::Age)]);
    let gone = removed(ledger, "a", over(11), 500).await;
    assert_eq!(gone.results_by_bytes, Amount { count: 2, bytes: 11 });
    assert_eq!(ledger.result_bytes(&tenant("a")).await.unwrap(), 4);
    assert!(result(ledger, &second).await.sent.is_empty());
    assert!(unnamed(ledger, b"two").await && unnamed(ledger, b"three").await && !unnamed(ledger, b"four").await);
}

pub(in crate::record::ledger) async fn an_upload_counts_from_the_last_job_that_names_it(ledger: &impl Ledger) {
    let file = uploaded(ledger, "a", "a.png", b"one", 100).await;
    assert_eq!(ids(ledger, "a", aged(100)).await, []);
    assert_eq!(ids(ledger, "a", aged(101)).await, [(id(file), Why::Age)]);
    let job = pinning(ledger, "a", "p", file, 200).await;
    ledger.end_held(job.id, job.version, Outcome::Cancelled, None, WallMillis(300)).await.unwrap();
    assert_eq!(ids(ledger, "a", aged(200)).await, []);
    assert_eq!(uploaded(ledger, "a", "a.png", b"one", 250).await, file, "the same again is a use");
    assert_eq!(ids(ledger, "a", aged(250)).await, []);
    assert_eq!(ids(ledger, "a", aged(251)).await, [(id(file), Why::Age)]);
    let gone = removed(ledger, "a", aged(251), 500).await;
    assert_eq!(gone.uploads, Amount { count: 1, bytes: 3 });
    assert_eq!(ledger.uploaded_bytes(&tenant("a")).await.unwrap(), 0, "it has made room");
}

pub(in crate::record::ledger) async fn what_a_job_has_pinned_stays_until_the_job_has_ended(ledger: &impl Ledger) {
    let upload = uploaded(ledger, "a", "a.png", b"one", 1).await;
    let twin = uploaded(ledger, "a", "b.png", b"one", 1).await;
    let (_, output) = made(ledger, "a", "made", b"out", 1).await;
    let job = pinning(ledger, "a", "p", upload, 2).await;
    let other = pinning(ledger, "a", "q", output, 2).await;
    let late = Due { result_bytes_max: Some(0), over_bytes_before: WallMillis(u64::MAX), ..aged(1000) };
    // Another file of the same content is not pinned; its content is.
    assert_eq!(ids(ledger, "a", late).await, [(id(twin), Why::Age)]);
    let pinned =
        DueItem { place: Place { class: Class::Uploads, at: WallMillis(2), id: id(upload) }, bytes: 3, why: Why::Age };
    let gone = ledger.remove(&tenant("a"), vec![pinned], WallMillis(1000)).await.unwrap();
    assert_eq!(gone, Removed::default(), "one that was pinned after it was looked at stays as well");
    removed(ledger, "a", late, 1000).await;
    assert!(!unnamed(ledger, b"one").await);
    for job in [&job, &other] {
        ledger.end_held(job.id, job.version, Outcome::Cancelled, None, WallMillis(3)).await.unwrap();
    }
    assert_eq!(ids(ledger, "a", late).await, [(id(output), Why::Age), (id(upload), Why::Age)]);
    removed(ledger, "a", late, 1001).await;
    assert!(unnamed(ledger, b"one").await && unnamed(ledger, b"out").await);
}

pub(in crate::record::ledger) async fn a_content_that_two_tenants_have_is_named_until_both_have_lost_it(
    ledger: &impl Ledger,
) {
    made(ledger, "a", "p", b"one", 100).await;
    uploaded(ledger, "b", "x.png", b"one", 100).await;
    removed(ledger, "a", aged(101), 500).await;
    assert!(!unnamed(ledger, b"one").await);
    assert_eq!(ledger.doomed(Store::Blobs, WallMillis(u64::MAX)).await.unwrap(), []);
    removed(ledger, "b", aged(101), 600).await;
    assert!(unnamed(ledger, b"one").await);
    let doomed = Doomed { at: WallMillis(600), content: Digest::of(b"one") };
    let walked = Doomed { at: WallMillis(0), ..doomed };
    assert_eq!(ledger.settle(Store::Blobs, vec![walked]).await.unwrap(), [], "its grace is not cut short");
    assert_eq!(ledger.doomed(Store::Blobs, WallMillis(600)).await.unwrap(), [], "the grace counts from then");
    assert_eq!(ledger.doomed(Store::Blobs, WallMillis(601)).await.unwrap(), [doomed]);
    // It came again before it was deleted: settled as named, and off the list.
    uploaded(ledger, "a", "y.png", b"one", 601).await;
    assert_eq!(ledger.settle(Store::Blobs, vec![doomed]).await.unwrap(), []);
    assert_eq!(ledger.doomed(Store::Blobs, WallMillis(u64::MAX)).await.unwrap(), []);
    let never_named = Digest::of(b"never");
    assert_eq!(ledger.unnamed(Store::Blobs, vec![never_named]).await.unwrap(), [never_named]);
}

pub(in crate::record::ledger) async fn an_entry_goes_by_age_with_its_graph_and_pictures_and_its_files_stay(
    ledger: &impl Ledger,
) {
    let (job, file) = made(ledger, "a", "p", b"one", 100).await;
    sent(ledger, "a", "q", &[b"two"], 200).await;
    let deleted = suite::accepted(ledger, "a", "r").await;
    ledger.end_held(deleted.id, deleted.version, Outcome::Cancelled, None, WallMillis(300)).await.unwrap();
    let history = |count| async move {
        let found = ledger.history(&scope("a"), HistoryPage::default()).await.unwrap();
        assert_eq!(found.len(), count);
    };
    assert_eq!(ids(ledger, "a", old(1)).await, []);
    // One that was deleted before it ran counts from its acceptance.
    assert_eq!(ids(ledger, "a", old(100)).await.len(), 1);
    assert_eq!(removed(ledger, "a", old(101), 500).await.history.count, 2);
    history(1).await;
    let gone = ledger.owned_prompt(&scope("a"), &job.prompt_id).await;
    assert!(matches!(gone, Err(LedgerError::NotFound { .. })));
    assert!(ledger.file(file).await.is_ok());
    assert!(!is_doomed(ledger, Store::Graphs, job.submission).await, "another job has the same");
    assert_eq!(removed(ledger, "a", old(201), 500).await.history.count, 1);
    history(0).await;
    assert!(is_doomed(ledger, Store::Graphs, job.submission).await);
    assert!(unnamed(ledger, b"two").await && !unnamed(ledger, b"one").await);
    assert_eq!(ledger.result_bytes(&tenant("a")).await.unwrap(), 3);
    // The file's own entry is gone: it goes without telling.
    assert_eq!(removed(ledger, "a", aged(101), 600).await.results_by_age.count, 1);
    assert_eq!(ledger.history(&scope("a"), HistoryPage::default()).await.unwrap().len(), 0);
}

pub(in crate::record::ledger) async fn a_graph_is_deleted_once_no_job_has_it_and_not_before(ledger: &impl Ledger) {
    let first = suite::accepted(ledger, "a", "p").await;
    let second = suite::accepted(ledger, "b", "p").await;
    let doomed = vec![Doomed { at: WallMillis(0), content: first.submission }];
    for job in [&first, &second] {
        assert_eq!(ledger.delete_graphs(doomed.clone()).await.unwrap(), Amount::default());
        assert_eq!(ledger.graph(&first.submission).await.unwrap(), "{}");
        ledger.end_held(job.id, job.version, Outcome::Cancelled, None, WallMillis(3)).await.unwrap();
        let ended = ledger.owned_prompt(&job.owner.scope(), &job.prompt_id).await.unwrap();
        ledger.forget(&ended).await.unwrap();
    }
    let listed = ledger.doomed(Store::Graphs, WallMillis(u64::MAX)).await.unwrap();
    assert_eq!(ledger.delete_graphs(doomed).await.unwrap(), Amount::default(), "doomed since another time");
    assert_eq!(ledger.delete_graphs(listed.clone()).await.unwrap(), Amount { count: 1, bytes: 2 });
    assert!(matches!(ledger.graph(&first.submission).await, Err(LedgerError::NotFound { .. })));
    assert_eq!(ledger.delete_graphs(listed).await.unwrap(), Amount::default());
    // The next job of it puts it back.
    let again = suite::accepted(ledger, "a", "again").await;
    assert_eq!(ledger.graph(&again.submission).await.unwrap(), "{}");
}

pub(in crate::record::ledger) async fn a_dead_letter_keeps_its_graph_and_leaves_it_to_nobody(ledger: &impl Ledger) {
    use crate::record::ledger::dead_letters::{DeadLetter, DeadLetterBounds};
    let job = suite::accepted(ledger, "a", "lost").await;
    let letter = DeadLetter::of(&job, "it died", WallMillis(2));
    ledger.insert_dead_letter(letter, DeadLetterBounds::default()).await.unwrap();
    ledger.end_held(job.id, job.version, Outcome::Cancelled, None, WallMillis(3)).await.unwrap();
    ledger.forget(&OwnedPrompt::new(job.clone())).await.unwrap();
    assert!(!is_doomed(ledger, Store::Graphs, job.submission).await);
    ledger.remove_dead_letter(job.id).await.unwrap();
    assert!(is_doomed(ledger, Store::Graphs, job.submission).await);
}

pub(in crate::record::ledger) async fn a_forgotten_job_leaves_its_pictures_and_graph_to_nobody(ledger: &impl Ledger) {
    let job = sent(ledger, "a", "p", &[b"two"], 200).await;
    ledger.forget(&OwnedPrompt::new(job.clone())).await.unwrap();
    let doomed = |content| Doomed { at: WallMillis(200), content };
    let all = WallMillis(u64::MAX);
    assert_eq!(ledger.doomed(Store::Blobs, all).await.unwrap(), [doomed(Digest::of(b"two"))]);
    assert_eq!(ledger.doomed(Store::Graphs, all).await.unwrap(), [doomed(job.submission)]);
    assert_eq!(ids(ledger, "a", Due { history_before: Some(all), ..aged(u64::MAX) }).await, []);
    assert_eq!(ledger.result_bytes(&tenant("a")).await.unwrap(), 0);
}

pub(in crate::record::ledger) async fn what_is_due_comes_in_parts_and_each_once(ledger: &impl Ledger) {
    let count = STEP_MAX + 3;
    for n in 0..count {
        uploaded(ledger, "a", &n.to_string(), n.to_string().as_bytes(), 5 + n as u64).await;
    }
    let (mut from, mut seen, mut pages) = (None, Vec::new(), 0);
    loop {
        let page = ledger.due(&tenant("a"), aged(u64::MAX), from).await.unwrap();
        assert!(page.items.len() <= STEP_MAX);
        seen.extend(page.items.iter().map(|item| item.place.at.0));
        pages += 1;
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    let all: Vec<u64> = (5..5 + count as u64).collect();
    assert_eq!((seen, pages), (all, 2));
}

pub(in crate::record::ledger) async fn what_was_adopted_counts_from_then_and_is_in_no_room_for_uploads(
    ledger: &impl Ledger,
) {
    uploaded(ledger, "a", "own.png", b"own", 1000).await;
    for directory in [Directory::Input, Directory::Output] {
        let file = AdoptedFile {
            directory,
            path: "x_00007_.png".parse().unwrap(),
            source: Adopted { content: Digest::of(b"adopted"), bytes: 7, modified_at: WallMillis(3) },
            content_type: "image/png".into(),
            facts: None,
            stored: true,
            at: WallMillis(100),
        };
        ledger.adopt_file(&Owner { tenant: tenant("a"), user: None, key: None, shared: false }, file).await.unwrap();
    }
    assert_eq!(ids(ledger, "a", aged(100)).await, [], "though the source is older");
    let gone = removed(ledger, "a", aged(101), 500).await;
    assert_eq!((gone.uploads.bytes, gone.results_by_age.bytes), (7, 7));
    assert_eq!(ledger.uploaded_bytes(&tenant("a")).await.unwrap(), 3);
    assert!(unnamed(ledger, b"adopted").await);
}

pub(in crate::record::ledger) async fn old_refusals_are_forgotten_and_younger_ones_are_not(ledger: &impl Ledger) {
    use crate::record::ledger::refusals::{RefusalBounds, RefusalQuery, suite as refusals};
    for at in [10, 20] {
        let row = refusals::row("a", at);
        ledger.insert_refusal(row, Some("{}".into()), RefusalBounds::default()).await.unwrap();
    }
    let oldest = ledger.refusals(RefusalQuery { tenant: None, since: None, shadow: false, limit: 9 }).await.unwrap();
    let (first, second) = (oldest[1].at, oldest[0].at);
    assert!(first < second);
    assert_eq!(ledger.expire_refusals(first).await.unwrap(), 0);
    assert_eq!(ledger.expire_refusals(second).await.unwrap(), 1);
    assert!(ledger.refusal(oldest[1].request).await.is_err());
    assert!(ledger.refusal(oldest[0].request).await.unwrap().1.is_some());
}

pub(in crate::record::ledger) async fn a_tenant_is_erased_when_no_job_of_it_runs_and_nobody_else_is(
    ledger: &impl Ledger,
) {
    let bounds = UserBounds { file_bytes_max: 100, tenant_bytes_max: 100 };
    for owner in ["a", "b"] {
        made(ledger, owner, "p", b"one", 100).await;
        sent(ledger, owner, "q", &[b"two"], 100).await;
        uploaded(ledger, owner, "x.png", b"three", 100).await;
        let write = UserWrite {
            path: "workflows/x.json".parse().unwrap(),
            content: "{}".into(),
            replace: false,
            bounds,
            at: WallMillis(1),
        };
        ledger.write_user_file(&scope(owner), write).await.unwrap();
    }
    let secrets = ledger.owner_secrets(&scope("a")).await.unwrap();
    assert_eq!(ledger.folders(&tenant("a")).await.unwrap(), std::slice::from_ref(&secrets.folder));
    let held = suite::accepted(ledger, "a", "held").await;
    let refused = ledger.erase(&tenant("a"), WallMillis(900)).await;
    assert!(matches!(refused, Err(LedgerError::Busy { active: 1, .. })), "{refused:?}");
    assert_eq!(ledger.user_files(&scope("a")).await.unwrap().len(), 1, "nothing was erased");
    ledger.end_held(held.id, held.version, Outcome::Cancelled, None, WallMillis(3)).await.unwrap();
    let (mut all, mut steps) = (Removed::default(), 0);
    loop {
        let erased = ledger.erase(&tenant("a"), WallMillis(900)).await.unwrap();
        all += erased.removed;
        steps += 1;
        assert!(steps < 20, "it ends");
        if erased.done {
            break;
        }
    }
    assert_eq!((all.results_by_age.bytes, all.uploads.bytes, all.history.count), (6, 5, 3));
    for (owner, there) in [("a", 0), ("b", 1)] {
        assert_eq!(ledger.user_files(&scope(owner)).await.unwrap().len(), there);
        assert_eq!(ledger.top_files(&scope(owner), Directory::Input).await.unwrap().len(), there);
        assert_eq!(ledger.history(&scope(owner), HistoryPage::default()).await.unwrap().len(), 2 * there);
        assert_eq!(ledger.folders(&tenant(owner)).await.unwrap().len(), there);
    }
    assert!(!unnamed(ledger, b"one").await, "the other tenant has it");
    assert!(ledger.owner_secrets(&scope("a")).await.unwrap() != secrets, "they are drawn anew");
    assert!(ledger.erase(&tenant("a-0"), WallMillis(900)).await.unwrap().done, "an unknown tenant has nothing");
}

pub(in crate::record::ledger) async fn what_is_in_use_at_backends_is_told(ledger: &impl Ledger) {
    let file = uploaded(ledger, "a", "used.png", b"one", 2).await;
    let job = pinning(ledger, "a", "uses", file, 2).await;
    let found = ledger.in_use().await.unwrap();
    assert_eq!((found.pinned, found.attempts), ([file].into(), HashSet::new()));
    let attempt = suite::assigned(ledger, &job).await;
    let found = ledger.in_use().await.unwrap();
    assert_eq!(found.attempts, [(attempt.job, 1)].into());
    assert_eq!(found.owners, [ledger.owner_secrets(&scope("a")).await.unwrap().folder].into());
    ledger.lose(attempt, "it died", crate::record::ledger::Reached::Perhaps).await.unwrap();
    let found = ledger.in_use().await.unwrap();
    assert!(found.attempts.is_empty() && found.pinned.contains(&file), "{found:?}");
}
