//! What pays for the paid nodes of jobs that have not ended: one file a job, `<state>/credentials/<job>`, 0600.
//!
//! SECURITY: files, and no table. redb writes every change to another page and leaves the former one as it was until something else needs the room: a secret that had been a row would
//! lie in `ledger.redb` long after its job. Here its end takes the file out of the directory. A backup copies tables, so it has none of them either.

use crate::ids::JobId;
use crate::record::durable;
use crate::record::ledger::LedgerError;
use comfygate_policy::ComfyOrgCredential;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

/// The folder of the credentials.
pub(super) struct Credentials {
    root: PathBuf,
    temporary: PathBuf,
}

impl Credentials {
    /// Makes the folders and sweeps what a killed gateway left half-written.
    pub(super) fn open(state: &Path) -> Result<Self, LedgerError> {
        let root = state.join("credentials");
        let temporary = root.join("tmp");
        let made = durable::private_dir(&root).and_then(|()| durable::private_dir(&temporary));
        made.and_then(|()| durable::sweep(&temporary))
            .map_err(|error| LedgerError::Unavailable { action: "open the credentials", reason: error.to_string() })?;
        Ok(Self { root, temporary })
    }

    fn path(&self, job: JobId) -> PathBuf {
        self.root.join(job.to_string())
    }

    /// Keeps the credential of a job, synced.
    pub(super) fn keep(&self, job: JobId, credential: &ComfyOrgCredential) -> io::Result<()> {
        durable::write(&self.temporary, &self.path(job), &credential.exposed())
    }

    /// The credential of a job; `None` if it has none, or not any more.
    pub(super) fn read(&self, job: JobId) -> Result<Option<ComfyOrgCredential>, LedgerError> {
        match std::fs::read(self.path(job)) {
            Ok(stored) => {
                ComfyOrgCredential::read(&stored).map(Some).map_err(|_| LedgerError::Damaged { what: "credential" })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                Err(LedgerError::Unavailable { action: "read a credential", reason: error.kind().to_string() })
            }
        }
    }

    /// Deletes the credential of a job that needs none any more.
    pub(super) fn forget(&self, job: JobId) {
        match std::fs::remove_file(self.path(job)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(%job, %error, "a credential can't be deleted now; it is when the gateway starts");
            }
            _ => {}
        }
    }

    /// Deletes those of all jobs but these: of what ended, or was never accepted, when a gateway was killed.
    pub(super) fn keep_only(&self, active: &HashSet<JobId>) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.root)? {
            let entry = entry?;
            let of = entry.file_name().to_str().and_then(|name| name.parse::<JobId>().ok());
            if entry.file_type()?.is_file() && of.is_none_or(|job| !active.contains(&job)) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallMillis;
    use crate::record::ledger::closing::Closing as _;
    use crate::record::ledger::redb::{RedbLedger, RedbOptions};
    use crate::record::ledger::suite;
    use crate::record::ledger::{Acceptance, Accepted, Approval, Ledger, Outcome, Reached};
    use std::os::unix::fs::PermissionsExt as _;

    const SECRET: &str = "comfyui-hunter2-hunter2";

    fn credential() -> ComfyOrgCredential {
        ComfyOrgCredential::of_api_key(SECRET).unwrap()
    }

    fn paid(name: &str, graph: &'static str) -> Acceptance {
        let approval = Approval::of_nodes(&["9"]).paid_by(Some(credential()));
        Acceptance { approval, ..suite::submission("a", name, graph) }
    }

    /// Files of the whole state directory that hold the secret.
    fn holding(dir: &Path) -> Vec<PathBuf> {
        let (mut folders, mut found) = (vec![dir.to_path_buf()], Vec::new());
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if std::fs::read(&path).unwrap().windows(SECRET.len()).any(|part| part == SECRET.as_bytes()) {
                    found.push(path);
                }
            }
        }
        found
    }

    fn open(dir: &Path) -> RedbLedger {
        RedbLedger::open(dir, RedbOptions::default()).unwrap()
    }

    #[tokio::test]
    async fn a_credential_outlives_a_restart_in_a_private_file_and_ends_with_its_job() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = open(dir.path());
        let Accepted::New(job) = ledger.accept(paid("p", "{}")).await.unwrap() else { panic!("it is new") };
        ledger.close().await;
        let ledger = open(dir.path());
        assert_eq!(ledger.credential(job.id).await.unwrap(), Some(credential()));
        let files = holding(dir.path());
        assert_eq!(files, [dir.path().join("credentials").join(job.id.to_string())]);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&files[0]), mode(files[0].parent().unwrap())), (0o600, 0o700));
        ledger.end_held(job.id, job.version, Outcome::Failed, None, WallMillis(3)).await.unwrap();
        assert_eq!(ledger.credential(job.id).await.unwrap(), None);
        assert_eq!(holding(dir.path()), Vec::<PathBuf>::new());
    }

    #[tokio::test]
    async fn a_committed_attempt_ends_it_too_and_a_lost_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = open(dir.path());
        let Accepted::New(job) = ledger.accept(paid("p", "{}")).await.unwrap() else { panic!("it is new") };
        let first = suite::assigned(&ledger, &job).await;
        let held = ledger.lose(first, "it died", Reached::Perhaps).await.unwrap();
        assert!(ledger.credential(job.id).await.unwrap().is_some());
        let second = suite::assigned(&ledger, &held).await;
        ledger.commit(second, Outcome::Succeeded, Default::default(), Vec::new(), WallMillis(4)).await.unwrap();
        assert_eq!(ledger.credential(job.id).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_refused_or_repeated_keeps_no_credential_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = open(dir.path());
        let Accepted::New(job) = ledger.accept(paid("p", "{}")).await.unwrap() else { panic!("it is new") };
        assert!(matches!(ledger.accept(paid("p", "{}")).await.unwrap(), Accepted::Again(_)));
        assert!(ledger.accept(paid("p", "[]")).await.is_err());
        assert!(ledger.accept(Acceptance { active_jobs_max: 1, ..paid("q", "{}") }).await.is_err());
        assert_eq!(holding(dir.path()), [dir.path().join("credentials").join(job.id.to_string())]);
    }

    #[tokio::test]
    async fn what_a_killed_gateway_left_is_swept_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = open(dir.path());
        let Accepted::New(job) = ledger.accept(paid("p", "{}")).await.unwrap() else { panic!("it is new") };
        ledger.credentials.keep(JobId::new(), &credential()).unwrap();
        std::fs::write(dir.path().join("credentials/tmp/half"), SECRET).unwrap();
        assert_eq!(holding(dir.path()).len(), 3);
        ledger.close().await;
        let ledger = open(dir.path());
        assert_eq!(holding(dir.path()), [dir.path().join("credentials").join(job.id.to_string())]);
        assert!(ledger.credential(job.id).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_damaged_file_is_told_without_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = open(dir.path());
        let Accepted::New(job) = ledger.accept(paid("p", "{}")).await.unwrap() else { panic!("it is new") };
        std::fs::write(dir.path().join("credentials").join(job.id.to_string()), format!("{SECRET} and more")).unwrap();
        let error = ledger.credential(job.id).await.unwrap_err();
        assert!(matches!(error, LedgerError::Damaged { .. }) && !error.to_string().contains(SECRET), "{error}");
    }
}
