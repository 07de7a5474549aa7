//! What every form of the ledger must do with uploads and pins.

use super::*;
use crate::inspect::contents::ContentKind;
use crate::record::ledger::{Acceptance, Accepted};
use crate::record::ledger::{Approval, Ledger, Outcome, Reached, suite};

fn upload(tenant: &str, filename: &str, content: &str) -> NewUpload {
    NewUpload {
        id: FileId::new(),
        owner: Owner { tenant: tenant.parse().unwrap(), user: None, key: None, shared: false },
        content: Digest::of(content.as_bytes()),
        bytes: 10,
        facts: ContentFacts { kind: ContentKind::Png, width: 3, height: 2, frames: 1, seconds: None },
        directory: Directory::Input,
        subfolder: String::new(),
        filename: filename.into(),
        overwrite: false,
        storage_bytes_max: 50,
        at: WallMillis(1),
    }
}

fn scope(tenant: &str) -> OwnerScope {
    upload(tenant, "x", "x").owner.scope()
}

async fn named(ledger: &impl Ledger, tenant: &str, filename: &str) -> Option<FileId> {
    let name = FileName::Shown { directory: Directory::Input, subfolder: String::new(), filename: filename.to_owned() };
    let found = ledger.named_files(&scope(tenant), vec![name]).await.unwrap().remove(0);
    found.map(|row| row.id)
}

pub(in crate::record::ledger) async fn a_name_is_numbered_shared_or_taken_over(ledger: &impl Ledger) {
    let first = ledger.keep_upload(upload("a", "a.png", "one")).await.unwrap();
    assert_eq!((first.filename.as_str(), first.content_type.as_str()), ("a.png", "image/png"));
    let again = ledger.keep_upload(upload("a", "a.png", "one")).await.unwrap();
    assert_eq!(again, first, "the same content under its name is that file");
    let other = ledger.keep_upload(upload("a", "a.png", "two")).await.unwrap();
    assert_eq!(other.filename, "a (1).png");
    assert_eq!(ledger.keep_upload(upload("a", "a.png", "two")).await.unwrap(), other);
    let facts = ContentFacts { seconds: Some(2), ..other.facts.unwrap() };
    let measured = ledger.keep_upload(NewUpload { facts, ..upload("a", "a.png", "two") }).await.unwrap();
    assert_eq!((measured.id, measured.facts), (other.id, Some(facts)), "what was not measured before is now");
    assert_eq!(ledger.file(other.id).await.unwrap(), measured);
    let over = NewUpload { overwrite: true, ..upload("a", "a.png", "three") };
    let over = ledger.keep_upload(over).await.unwrap();
    assert_eq!((over.filename.as_str(), named(ledger, "a", "a.png").await), ("a.png", Some(over.id)));
    assert_eq!(ledger.file(first.id).await.unwrap(), first, "what the name meant before is there under its id");
    assert_eq!(ledger.uploaded_bytes(&"a".parse().unwrap()).await.unwrap(), 30, "three contents were stored");
}

pub(in crate::record::ledger) async fn uploads_have_their_room_to_the_byte(ledger: &impl Ledger) {
    for (name, bytes) in [("a", 20), ("b", 30)] {
        ledger.keep_upload(NewUpload { bytes, ..upload("a", name, name) }).await.unwrap();
    }
    let more = NewUpload { bytes: 1, ..upload("a", "c", "c") };
    assert!(matches!(ledger.keep_upload(more).await, Err(LedgerError::NoRoom { used: 51, limit: 50 })));
    assert_eq!((named(ledger, "a", "c").await, named(ledger, "a", "b").await.is_some()), (None, true));
    ledger.keep_upload(NewUpload { bytes: 50, ..upload("b", "c", "c") }).await.unwrap();
}

pub(in crate::record::ledger) async fn an_upload_is_its_scopes_under_any_name(ledger: &impl Ledger) {
    let row = ledger.keep_upload(upload("a", "a.png", "one")).await.unwrap();
    let hidden = NewUpload { subfolder: "x".into(), ..upload("a", "b.png", "one") };
    ledger.keep_upload(hidden).await.unwrap();
    for (tenant, found) in [("a", true), ("b", false)] {
        let by_id = ledger.named_files(&scope(tenant), vec![FileName::Id(row.id), FileName::Id(FileId::new())]).await;
        assert_eq!(by_id.unwrap().iter().map(Option::is_some).collect::<Vec<_>>(), [found, false]);
        assert_eq!(named(ledger, tenant, "a.png").await.is_some(), found);
        let top = ledger.top_files(&scope(tenant), Directory::Input).await.unwrap();
        assert_eq!(top.len(), usize::from(found), "what lies in a folder is not at the top");
        assert!(ledger.top_files(&scope(tenant), Directory::Temp).await.unwrap().is_empty());
    }
}

pub(in crate::record::ledger) async fn pins_stay_until_their_job_has_ended(ledger: &impl Ledger) {
    let row = ledger.keep_upload(upload("a", "a.png", "one")).await.unwrap();
    let pin = Pin {
        name: "a.png".into(),
        directory: Directory::Input,
        file: row.id,
        content: row.content,
        bytes: row.bytes,
        facts: row.facts.unwrap(),
    };
    let approval = Approval::of_files(vec![pin.clone()]);
    let submission = Acceptance { approval, ..suite::submission("a", "p", "{}") };
    let Accepted::New(job) = ledger.accept(submission).await.unwrap() else { panic!("not new") };
    let bare = suite::accepted(ledger, "a", "q").await;
    assert_eq!(ledger.pins(job.id).await.unwrap(), std::slice::from_ref(&pin));
    assert!(ledger.pins(bare.id).await.unwrap().is_empty());
    let attempt = suite::assigned(ledger, &job).await;
    let held = ledger.lose(attempt, "it died", Reached::Perhaps).await.unwrap();
    assert_eq!(ledger.pins(job.id).await.unwrap(), [pin]);
    ledger.end_held(held.id, held.version, Outcome::Cancelled, None, WallMillis(3)).await.unwrap();
    assert!(ledger.pins(job.id).await.unwrap().is_empty());
}

pub(in crate::record::ledger) async fn copies_of_a_name_are_bounded(ledger: &impl Ledger) {
    let numbered = |n: u32| NewUpload { bytes: 0, ..upload("a", "a", &n.to_string()) };
    // At once, so that they share their syncs.
    let all = (0..NAME_COPIES_MAX).map(|n| ledger.keep_upload(numbered(n)));
    assert!(futures_util::future::join_all(all).await.iter().all(Result::is_ok));
    let refused = ledger.keep_upload(numbered(NAME_COPIES_MAX)).await;
    assert!(matches!(refused, Err(LedgerError::NamesTaken { copies: NAME_COPIES_MAX, .. })));
    ledger.keep_upload(NewUpload { overwrite: true, ..numbered(NAME_COPIES_MAX) }).await.unwrap();
}
