//! What an erasure takes beside files and history: whatever tells who somebody was. And the guard that keeps what is being erased from growing again.

use super::keeping::scopes_of;
use super::storage::Fault;
use super::tables::{
    BUDGETS, DEAD_LETTERS, HALTS, KEPT, NAMES, OWNER_SESSIONS, SCOPES, SECRETS, TENANT_KEYS, TENANT_REFUSALS, TENANTS,
    Tables, UPLOADED, USER_FILES, USERS, decoded,
};
use crate::authenticate::api_key::KeyRow;
use crate::ids::TenantId;
use crate::record::ledger::LedgerError;
use crate::record::ledger::dead_letters::DeadLetter;
use crate::record::ledger::users::UserRow;
use ::redb::{ReadTransaction, ReadableTable};
use serde::de::DeserializeOwned;
use std::ops::RangeInclusive;

/// Refuses to write anything of a tenant that is being erased, or was deleted. SECURITY: a request that was let in before the tenant was closed may come to its end after the last row has gone; its
/// rows would be nobody's, and the next tenant of the id would find them.
pub(super) fn refuse_erased(tables: &Tables<'_>, tenant: &TenantId) -> Result<(), Fault> {
    let id = tenant.as_str();
    if tables.erasures.get(id)?.is_some() || tables.tombstones.get(id)?.is_some() {
        return Err(LedgerError::Erased { tenant: tenant.clone() }.into());
    }
    Ok(())
}

/// Takes keys, sessions, users and halts, what stands against its budget, and out of the usage everything but the tenant's own sums by day and model; gives how many rows. In one go: they are few, but for those of the usage,
/// which are looked up by day.
pub(super) fn identity(tables: &mut Tables<'_>, tenant: &TenantId) -> Result<usize, Fault> {
    let mut taken = keys(tables, tenant)? + sessions(tables, tenant)? + users(tables, tenant)?;
    taken += usize::from(tables.halts.remove(("tenant", tenant.as_str()))?.is_some());
    Ok(taken + budgets(tables, tenant)? + usage(tables, tenant)?)
}

/// What there is of a tenant that an erasure would take, the first that is found.
pub(super) fn leftovers(snapshot: &ReadTransaction, tenant: &TenantId) -> Result<Option<&'static str>, Fault> {
    let (from, to) = scopes_of(tenant);
    let (id, from, to) = (tenant.as_str(), from.as_str(), to.as_str());
    if snapshot.open_table(TENANTS)?.get(id)?.is_some_and(|count| count.value() > 0) {
        return Ok(Some("a job that has not ended"));
    }
    if snapshot.open_table(KEPT)?.range((id, 0, 0, 0)..=(id, u8::MAX, u64::MAX, u128::MAX))?.next().is_some()
        || snapshot.open_table(NAMES)?.range((from, "", "", "")..(to, "", "", ""))?.next().is_some()
        || snapshot.open_table(UPLOADED)?.get(id)?.is_some_and(|bytes| bytes.value() > 0)
    {
        return Ok(Some("a file or an entry of the history"));
    }
    if snapshot.open_table(USER_FILES)?.range((from, "")..(to, ""))?.next().is_some() {
        return Ok(Some("userdata"));
    }
    for entry in snapshot.open_table(TENANT_KEYS)?.range((id, "")..)?.take(1) {
        if entry?.0.value().0 == id {
            return Ok(Some("an API key"));
        }
    }
    if first(&snapshot.open_table(USERS)?, |row: &UserRow| row.tenant == *tenant)? {
        return Ok(Some("a user"));
    }
    if snapshot.open_table(OWNER_SESSIONS)?.range((from, 0, 0)..(to, 0, 0))?.next().is_some() {
        return Ok(Some("a session"));
    }
    if snapshot.open_table(TENANT_REFUSALS)?.range((id, 0)..=(id, u64::MAX))?.next().is_some() {
        return Ok(Some("a refused workflow"));
    }
    if first(&snapshot.open_table(DEAD_LETTERS)?, |row: &DeadLetter| row.owner.tenant == *tenant)? {
        return Ok(Some("a job that was given up"));
    }
    if snapshot.open_table(HALTS)?.get(("tenant", id))?.is_some() {
        return Ok(Some("a pause"));
    }
    let budgets = snapshot.open_table(BUDGETS)?;
    for day in days(&budgets, |key| key.0)? {
        if !spent(&budgets, day, tenant)?.is_empty() {
            return Ok(Some("something that was spent of the budget"));
        }
    }
    let owners = snapshot.open_table(SECRETS)?.range(from..to)?.next().is_some()
        || snapshot.open_table(SCOPES)?.range(from..to)?.next().is_some();
    Ok(owners.then_some("the folder of a user at backends"))
}

/// Whether a row of a table is one of those.
fn first<K: ::redb::Key + 'static, T: DeserializeOwned>(
    table: &impl ReadableTable<K, &'static [u8]>,
    is_one: impl Fn(&T) -> bool,
) -> Result<bool, Fault> {
    for entry in table.iter()? {
        // One that can't be read is nobody's, and must not stand in everybody's way.
        if decoded(entry?.1.value()).is_ok_and(|row| is_one(&row)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn keys(tables: &mut Tables<'_>, tenant: &TenantId) -> Result<usize, Fault> {
    let found = super::keys::ids_of(tables, tenant)?;
    for id in &found {
        let stored = tables.keys.get(id.as_str())?.and_then(|stored| decoded::<KeyRow>(stored.value()).ok());
        match stored {
            Some(row) => super::keys::forget(tables, &row)?,
            // It can't be read: what is known of it goes.
            None => {
                tables.keys.remove(id.as_str())?;
                tables.tenant_keys.remove((tenant.as_str(), id.as_str()))?;
                tables.key_requests.retain(|_, key| key != id.as_str())?;
            }
        }
    }
    Ok(found.len())
}

fn sessions(tables: &mut Tables<'_>, tenant: &TenantId) -> Result<usize, Fault> {
    let (from, to) = scopes_of(tenant);
    let mut found = Vec::new();
    for entry in tables.owner_sessions.range((from.as_str(), 0, 0)..(to.as_str(), 0, 0))? {
        let entry = entry?;
        let (scope, created_at, id) = entry.0.value();
        found.push((scope.to_owned(), created_at, id));
    }
    for (scope, created_at, id) in &found {
        tables.sessions.remove(id)?;
        tables.owner_sessions.remove((scope.as_str(), *created_at, *id))?;
    }
    Ok(found.len())
}

fn users(tables: &mut Tables<'_>, tenant: &TenantId) -> Result<usize, Fault> {
    let mut found = Vec::new();
    for entry in tables.users.iter()? {
        let (name, stored) = entry?;
        if decoded::<UserRow>(stored.value()).is_ok_and(|row| row.tenant == *tenant) {
            found.push(name.value().to_owned());
        }
    }
    for name in &found {
        tables.users.remove(name.as_str())?;
    }
    Ok(found.len())
}

/// The days of a table whose keys begin with one: as many as are kept for bills.
fn days<K: ::redb::Key + 'static, V: ::redb::Value + 'static>(
    table: &impl ReadableTable<K, V>,
    day: impl Fn(K::SelfType<'_>) -> u32,
) -> Result<RangeInclusive<u32>, Fault> {
    let (first, last) = (table.first()?, table.last()?);
    Ok(match (first, last) {
        (Some(first), Some(last)) => day(first.0.value())..=day(last.0.value()),
        // One without days.
        _ => RangeInclusive::new(1, 0),
    })
}

/// Who of a tenant has a row of that day: the tenant itself, its services, its users.
fn spent(
    budgets: &impl ReadableTable<(u32, &'static str), (u64, u64)>,
    day: u32,
    tenant: &TenantId,
) -> Result<Vec<String>, Fault> {
    let (from, to) = scopes_of(tenant);
    let mut found = Vec::new();
    if budgets.get((day, tenant.as_str()))?.is_some() {
        found.push(tenant.to_string());
    }
    for entry in budgets.range((day, from.as_str())..(day, to.as_str()))? {
        found.push(entry?.0.value().1.to_owned());
    }
    Ok(found)
}

fn budgets(tables: &mut Tables<'_>, tenant: &TenantId) -> Result<usize, Fault> {
    let mut taken = 0;
    for day in days(&tables.budgets, |key| key.0)? {
        for who in spent(&tables.budgets, day, tenant)? {
            tables.budgets.remove((day, who.as_str()))?;
            taken += 1;
        }
    }
    Ok(taken)
}

/// Sums that bills are made of stay, without their users and without digests of their workflows: hashes of users would still tell one from the other, and who has a list of names finds theirs.
fn usage(tables: &mut Tables<'_>, tenant: &TenantId) -> Result<usize, Fault> {
    let (nobody, to) = scopes_of(tenant);
    let (nobody, to) = (nobody.as_str(), to.as_str());
    let mut of_users = Vec::new();
    for day in days(&tables.usage, |key| key.0)? {
        for entry in tables.usage.range((day, nobody, "")..(day, to, ""))? {
            let (key, value) = entry?;
            let ((_, scope, model), (millis, jobs)) = (key.value(), value.value());
            if scope != nobody {
                of_users.push((day, scope.to_owned(), model.to_owned(), millis, jobs));
            }
        }
    }
    for (day, scope, model, millis, jobs) in &of_users {
        let key = (*day, nobody, model.as_str());
        let (sum, count) = tables.usage.get(key)?.map_or((0, 0), |found| found.value());
        tables.usage.insert(key, (sum.saturating_add(*millis), count.saturating_add(*jobs)))?;
        tables.usage.remove((*day, scope.as_str(), model.as_str()))?;
    }
    let mut workflows = Vec::new();
    for day in days(&tables.workflow_usage, |key| key.0)? {
        for entry in tables.workflow_usage.range((day, nobody, "")..(day, to, ""))? {
            let entry = entry?;
            let (_, scope, workflow) = entry.0.value();
            workflows.push((day, scope.to_owned(), workflow.to_owned()));
        }
    }
    for (day, scope, workflow) in &workflows {
        tables.workflow_usage.remove((*day, scope.as_str(), workflow.as_str()))?;
    }
    for day in days(&tables.usage_rows, |key| key.0)? {
        if tables.usage_rows.get((day, tenant.as_str()))?.is_some() {
            let rows = tables.usage.range((day, nobody, "")..(day, to, ""))?.count();
            tables.usage_rows.insert((day, tenant.as_str()), (u32::try_from(rows).unwrap_or(u32::MAX), 0))?;
        }
    }
    Ok(of_users.len() + workflows.len())
}

#[cfg(test)]
mod tests {
    use super::super::tables::{TABLE_NAMES, raw};
    use super::super::{RedbLedger, RedbOptions};
    use super::*;
    use crate::authenticate::api_key::MadeBy;
    use crate::budget::{Budget, Charge, Reservation};
    use crate::clock::WallMillis;
    use crate::ids::FileId;
    use crate::inspect::contents::{ContentFacts, ContentKind};
    use crate::owner::Owner;
    use crate::record::ledger::dead_letters::{DeadLetterBounds, DeadLetters};
    use crate::record::ledger::halts::{HaltRow, Halted, Halts};
    use crate::record::ledger::keeping::Keeping;
    use crate::record::ledger::managed::ManagedRows;
    use crate::record::ledger::refusals::{RefusalBounds, Refusals};
    use crate::record::ledger::sessions::{SessionBounds, SessionRow, Sessions};
    use crate::record::ledger::uploads::{NewUpload, Pin, Uploads};
    use crate::record::ledger::user_files::{Adopted, AdoptedFile, UserBounds, UserFiles, UserWrite};
    use crate::record::ledger::users::Users;
    use crate::record::ledger::work::Work;
    use crate::record::ledger::{
        Acceptance, Accepted, Approval, Directory, JobResult, Ledger, Outcome, dead_letters, refusals, sessions, suite,
        users,
    };
    use comfygate_policy::Digest;
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    type Raw = BTreeMap<&'static str, BTreeSet<Vec<u8>>>;

    /// Tables that hold nothing of a tenant's doing: what is the gateway's own, and the tenants themselves.
    const NOBODYS: [&str; 8] = [
        "banned_classes",
        "created_tenants",
        "erasures",
        "instance",
        "learned",
        "managed_tenants",
        "tombstones",
        "upstream_clients",
    ];
    /// What may differ afterwards: contents that no row names any more until they are deleted, and the counter of jobs.
    const CHANGED: [&str; 3] = ["doomed", "doomed_since", "meta"];
    /// What bills are made of: without users.
    const BILLS: [&str; 2] = ["usage", "usage_rows"];

    async fn rows(ledger: &RedbLedger) -> Raw {
        ledger.read("look at every row", raw).await.unwrap()
    }

    fn key_id(tenant: &str) -> String {
        tenant.chars().cycle().take(12).collect()
    }

    fn owner(tenant: &str, user: Option<&str>) -> Owner {
        let user = user.map(|user| user.parse().unwrap());
        Owner { tenant: tenant.parse().unwrap(), user, key: Some(key_id(tenant).parse().unwrap()), shared: false }
    }

    async fn accepted(
        ledger: &RedbLedger,
        owner: &Owner,
        name: &str,
        approval: Approval,
    ) -> crate::record::ledger::Job {
        let acceptance = Acceptance {
            owner: owner.clone(),
            idempotency_key: Some(format!("idempotent-{name}")),
            approval,
            active_jobs_max: 9,
            reservation: Reservation { amount: Charge::of_millis(500), budget: Budget::default() },
            ..suite::submission(owner.tenant.as_str(), name, "{}")
        };
        match ledger.accept(acceptance).await.unwrap() {
            Accepted::New(job) => job,
            Accepted::Again(job) => panic!("{job:?} was there"),
        }
    }

    /// Has a tenant leave a row in every table that may have one of it. Gives the rows while a job of it had not ended.
    async fn filled(ledger: &RedbLedger, tenant: &str) -> Raw {
        let (who, service) = (owner(tenant, Some("ann")), owner(tenant, None));
        let made_by = MadeBy { name: Digest::of(format!("name {tenant}").as_bytes()), request: Digest::of(b"request") };
        ledger.insert_key(KeyRow { made_by: Some(made_by), ..suite::key_row(&key_id(tenant), tenant) }).await.unwrap();
        ledger.insert_user(users::suite::row(&format!("ann-{tenant}"), tenant, 1), 99).await.unwrap();
        let bounds = SessionBounds {
            idle_timeout: Duration::from_secs(60),
            lifetime: Duration::from_secs(60),
            per_owner_max: 9,
            total_max: 99,
        };
        let session = SessionRow { owner: who.clone(), ..sessions::suite::row(tenant, 1) };
        ledger.insert_session(session, bounds).await.unwrap();
        let halt =
            HaltRow { halted: Halted::Tenant(who.tenant.clone()), maintenance: false, reason: None, at: WallMillis(1) };
        ledger.halt(halt, 9).await.unwrap();
        let graph = bytes::Bytes::from(format!("{{\"refused\":\"{tenant}\"}}"));
        ledger.insert_refusal(refusals::suite::row(tenant, 1), Some(graph), RefusalBounds::default()).await.unwrap();
        let letter = dead_letters::suite::letter(tenant, 1);
        ledger.insert_dead_letter(letter, DeadLetterBounds::default()).await.unwrap();
        let facts = ContentFacts { kind: ContentKind::Png, width: 3, height: 2, frames: 1, seconds: None };
        let upload = NewUpload {
            id: FileId::new(),
            owner: who.clone(),
            content: Digest::of(tenant.as_bytes()),
            bytes: 5,
            facts,
            directory: Directory::Input,
            subfolder: String::new(),
            filename: "x.png".into(),
            overwrite: false,
            storage_bytes_max: 1000,
            at: WallMillis(1),
        };
        let file = ledger.keep_upload(upload).await.unwrap();
        let adopted = AdoptedFile {
            directory: Directory::Output,
            path: "x_00007_.png".parse().unwrap(),
            source: Adopted { content: Digest::of(b"adopted"), bytes: 7, modified_at: WallMillis(3) },
            content_type: "image/png".into(),
            facts: None,
            stored: true,
            at: WallMillis(1),
        };
        ledger.adopt_file(&service, adopted).await.unwrap();
        let write = UserWrite {
            path: "workflows/x.json".parse().unwrap(),
            content: "{}".into(),
            replace: false,
            bounds: UserBounds { file_bytes_max: 100, tenant_bytes_max: 100 },
            at: WallMillis(1),
        };
        ledger.write_user_file(&who.personal(), write).await.unwrap();

        let pin = Pin {
            name: "x.png".into(),
            directory: Directory::Input,
            file: file.id,
            content: Digest::of(tenant.as_bytes()),
            bytes: 5,
            facts,
        };
        let pinning = accepted(ledger, &who, "pinning", Approval::of_files(vec![pin])).await;
        let during = rows(ledger).await;
        ledger.end_held(pinning.id, pinning.version, Outcome::Cancelled, None, WallMillis(3)).await.unwrap();
        for (owner, name) in [(&who, "p"), (&service, "q")] {
            let work = Work { units: 1.0, models: vec!["m".into()], model: "m".into() };
            let job = accepted(ledger, owner, name, Approval::of_work(work)).await;
            let attempt = suite::assigned(ledger, &job).await;
            let result = JobResult { charged: Some(Charge::of_millis(700)), ..suite::two_images() };
            ledger
                .commit(attempt, Outcome::Succeeded, result, vec![suite::image(1, "/9/images/0")], WallMillis(4))
                .await
                .unwrap();
        }
        during
    }

    /// Erases as a deletion does.
    async fn erased(ledger: &RedbLedger, tenant: &TenantId) -> u64 {
        let (mut taken, mut steps) = (0, 0);
        loop {
            let step = ledger.erase(tenant, WallMillis(900)).await.unwrap();
            (taken, steps) = (taken + step.rows, steps + 1);
            assert!(steps < 20, "it ends");
            if step.done {
                return taken;
            }
        }
    }

    #[tokio::test]
    async fn every_table_is_as_it_was_before_a_tenant_came_once_it_is_erased_but_for_its_bill() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        filled(&ledger, "zebra").await;
        let before = rows(&ledger).await;
        let (tenant, neighbour): (TenantId, TenantId) = ("zebrafinch".parse().unwrap(), "zebra".parse().unwrap());
        assert_eq!(ledger.leftovers(&tenant).await.unwrap(), None);
        let during = filled(&ledger, tenant.as_str()).await;
        let after = rows(&ledger).await;
        // A new table fails here: either a tenant leaves something in it, and the lines above have to make it, or it stands in the list.
        for table in TABLE_NAMES {
            let grew = after[table] != before[table] || during[table] != before[table];
            let counted = table.starts_with("doomed");
            assert!(grew || counted || NOBODYS.contains(table), "`{table}` has nothing of the tenant");
            assert!(!grew || !NOBODYS.contains(table), "`{table}` has something of the tenant");
        }
        assert!(ledger.leftovers(&tenant).await.unwrap().is_some());

        assert!(erased(&ledger, &tenant).await > 0);
        let left = rows(&ledger).await;
        for (table, left) in &left {
            let is_his = |row: &&Vec<u8>| row.windows(10).any(|part| part == b"zebrafinch");
            let his: Vec<String> =
                left.iter().filter(is_his).map(|row| String::from_utf8_lossy(row).into_owned()).collect();
            if BILLS.contains(table) {
                assert!(!his.is_empty() && his.iter().all(|row| !row.contains("ann")), "{table}: {his:?}");
            } else {
                assert_eq!(his, Vec::<String>::new(), "{table}");
            }
            if !BILLS.contains(table) && !CHANGED.contains(table) {
                assert!(*left == before[table], "`{table}` has other rows than before the tenant came");
            }
        }
        assert_eq!(ledger.leftovers(&tenant).await.unwrap(), None);
        assert!(ledger.leftovers(&neighbour).await.unwrap().is_some(), "whose id begins alike");
    }

    /// Makes every row of a table one that can't be read.
    fn damage<K: ::redb::Key + 'static>(table: &mut ::redb::Table<'_, K, &'static [u8]>) -> Result<(), Fault> {
        let mut keys = Vec::new();
        for entry in table.iter()? {
            keys.push(K::as_bytes(&entry?.0.value()).as_ref().to_vec());
        }
        assert!(!keys.is_empty(), "nothing to damage");
        for key in &keys {
            table.insert(K::from_bytes(key), &b"damaged"[..])?;
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_tenant_whose_rows_cant_be_read_is_erased_without_a_row_left() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        let nobodys = |tables: &mut Tables<'_>| -> Result<(), Fault> {
            tables.dead_letters.insert(9, &b"damaged"[..])?;
            Ok(())
        };
        ledger.write("damage a letter of nobody's", nobodys).await.unwrap();
        let before = rows(&ledger).await;
        let tenant: TenantId = "zebrafinch".parse().unwrap();
        filled(&ledger, tenant.as_str()).await;
        let all = |tables: &mut Tables<'_>| -> Result<(), Fault> {
            damage(&mut tables.files)?;
            damage(&mut tables.jobs)?;
            damage(&mut tables.results)?;
            damage(&mut tables.refusals)?;
            damage(&mut tables.secrets)?;
            damage(&mut tables.scopes)?;
            damage(&mut tables.keys)?;
            damage(&mut tables.sessions)
        };
        ledger.write("damage what it has", all).await.unwrap();
        assert_eq!(ledger.folders(&tenant).await.unwrap(), Vec::<String>::new());
        assert!(erased(&ledger, &tenant).await > 0);
        for (table, left) in &rows(&ledger).await {
            let stays = BILLS.contains(table) || CHANGED.contains(table);
            assert!(stays || *left == before[table], "`{table}` has other rows than before the tenant came");
        }
        assert_eq!(ledger.leftovers(&tenant).await.unwrap(), None);
    }

    #[tokio::test]
    async fn each_kind_of_thing_alone_is_something_that_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
        let left = async |tenant: &str| ledger.leftovers(&tenant.parse().unwrap()).await.unwrap();
        ledger.insert_key(suite::key_row("aaaaaaaaaaaa", "key")).await.unwrap();
        assert_eq!(left("key").await, Some("an API key"));
        ledger.insert_user(users::suite::row("ann", "user", 1), 9).await.unwrap();
        assert_eq!(left("user").await, Some("a user"));
        suite::accepted(&ledger, "job", "p").await;
        assert_eq!(left("job").await, Some("a job that has not ended"));
        let letter = dead_letters::suite::letter("letter", 1);
        ledger.insert_dead_letter(letter, DeadLetterBounds::default()).await.unwrap();
        assert_eq!(left("letter").await, Some("a job that was given up"));
        ledger.insert_refusal(refusals::suite::row("refused", 1), None, RefusalBounds::default()).await.unwrap();
        assert_eq!(left("refused").await, Some("a refused workflow"));
        let scope = crate::owner::OwnerScope { tenant: "secret".parse().unwrap(), user: None };
        ledger.owner_secrets(&scope).await.unwrap();
        assert_eq!(left("secret").await, Some("the folder of a user at backends"));
        let budget = ("spent".parse().unwrap(), Charge::of_millis(7));
        ledger
            .write("spend", move |tables: &mut Tables<'_>| {
                let (tenant, charge): (TenantId, Charge) = budget;
                tables.budgets.insert((20_000, tenant.as_str()), (charge.millis(), 0))?;
                Ok(())
            })
            .await
            .unwrap();
        assert_eq!(left("spent").await, Some("something that was spent of the budget"));
        for nobody in ["ke", "keys", "spen", "spentt", "nobody"] {
            assert_eq!(left(nobody).await, None, "{nobody}");
        }
    }
}
