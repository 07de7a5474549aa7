use super::*;
use crate::config::AuditConfig;
use crate::config::faults::{Place, Report, SourceFile};
use crate::ids::TenantId;
use crate::record::ledger::keeping::Keeping;
use crate::record::ledger::redb::{RedbLedger, RedbOptions};
use crate::record::ledger::tenants::Tenants;
use crate::record::ledger::{Ledger, LedgerError};
use crate::tenants::created::CreatedTenants;
use crate::tenants::{AllTenants, Claimed};
use serde_json::{Value, json};
use std::path::Path;

const FILE: &str = r#"
[[plan]]
id = "team"
active_jobs_max = 7
users = "shared"
[[plan]]
id = "free"
[[plan]]
id = "trusting"
policy = "owner"
pool = "own"
[[plan]]
id = "beside"
pool = "own"
[[tenant]]
id = "boss"
plan = "trusting"
[[tenant]]
id = "filed"
plan = "team"
claim = "org_filed"
"#;

fn registry(text: &str) -> Arc<TenantRegistry> {
    let source = SourceFile { path: Path::new("/t.toml").into(), text: text.into() };
    Arc::new(crate::tenants::read_tenants(&source, Path::new("/nowhere"), &Report::default()))
}

fn id(text: &str) -> TenantId {
    text.parse().unwrap()
}

fn spec(value: Value) -> TenantSpec {
    serde_json::from_value(value).unwrap()
}

struct World {
    clock: Clock,
    store: Arc<RedbLedger>,
    managed: Arc<ManagedTenants>,
    created: Arc<CreatedTenants>,
    registry: Arc<TenantRegistry>,
}

fn audit(dir: &Path, clock: &Clock) -> Audit {
    Audit::open(&AuditConfig::File { path: dir.join("audit.jsonl"), rotation: None }, clock.clone()).unwrap()
}

impl World {
    async fn new(dir: &Path) -> Self {
        let clock = Clock::turned_by_hand(WallMillis(1_000));
        let audit = audit(dir, &clock);
        let store = Arc::new(RedbLedger::open(dir, RedbOptions::default()).unwrap());
        let rows = Arc::clone(&store) as Arc<dyn ManagedRows>;
        let managed = Arc::new(ManagedTenants::load(rows, audit.clone(), clock.clone()).await.unwrap());
        let created = CreatedTenants::load(Arc::clone(&store) as Arc<dyn Tenants>, audit, clock.clone()).await.unwrap();
        Self { clock, store, managed, created: Arc::new(created), registry: registry(FILE) }
    }

    async fn put(&self, name: &str, body: Value) -> Result<Put, PutError> {
        self.managed.put(&id(name), spec(body), &PutOptions::default(), &self.all()).await
    }

    fn with(&self, text: &str) -> AllTenants {
        AllTenants::new(registry(text), Arc::clone(&self.managed), Arc::clone(&self.created), 9)
    }

    fn all(&self) -> AllTenants {
        AllTenants::new(Arc::clone(&self.registry), Arc::clone(&self.managed), Arc::clone(&self.created), 9)
    }

    fn deleted_at(&self, name: &str) -> Option<WallMillis> {
        self.managed.deleted_at(&id(name), &self.registry)
    }
}

fn pointers(put: Result<Put, PutError>) -> Vec<String> {
    match put {
        Err(PutError::Faulty(faults)) => faults.into_iter().map(|fault| fault.pointer).collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_same_body_twice_writes_once_and_another_adds_one_to_the_version() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let body =
        || json!({"plan": "team", "name": "Acme", "limits": {"weight": 3, "rate": {"per_second": 1, "burst": 2}}});
    let first = world.put("acme", body()).await.unwrap();
    assert!(matches!(&first, Put::Made(row, _) if row.version == 1));
    // Another order of the same keys is the same.
    let again = json!({"limits": {"rate": {"burst": 2, "per_second": 1}, "weight": 3}, "name": "Acme", "plan": "team"});
    let second = world.put("acme", again).await.unwrap();
    assert!(matches!(&second, Put::Same(row) if row == first.row()), "{second:?}");
    let third = world.put("acme", json!({"plan": "free"})).await.unwrap();
    assert!(matches!(&third, Put::Changed(row, _) if row.version == 2 && row.limits.is_empty() && row.name.is_none()));
    drop(world);
    let after = World::new(dir.path()).await;
    assert_eq!(after.managed.list(), [Arc::clone(third.row())]);
}

#[tokio::test]
async fn a_change_that_was_made_on_an_older_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let put = async |version, plan: &str| {
        let options = PutOptions { only_if: OnlyIf::At(version), reuse: false };
        world.managed.put(&id("acme"), spec(json!({"plan": plan})), &options, &world.all()).await
    };
    assert!(matches!(put(1, "team").await, Err(PutError::Stale { .. })), "nothing is there yet");
    world.put("acme", json!({"plan": "team"})).await.unwrap();
    assert!(put(1, "free").await.is_ok());
    assert!(matches!(put(1, "team").await, Err(PutError::Stale { .. })));
    assert!(put(2, "team").await.is_ok());
}

#[tokio::test]
async fn of_two_that_must_be_new_one_is_made_and_whoever_must_be_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let put = async |only_if, plan: &str| {
        let options = PutOptions { only_if, reuse: false };
        world.managed.put(&id("acme"), spec(json!({"plan": plan})), &options, &world.all()).await
    };
    assert!(matches!(put(OnlyIf::There, "free").await, Err(PutError::Absent(_))));
    // Neither knows of the other.
    let (first, second) = tokio::join!(put(OnlyIf::New, "free"), put(OnlyIf::New, "team"));
    assert!(matches!(&first, Ok(Put::Made(row, _)) if row.plan == "free"), "{first:?}");
    assert!(matches!(second, Err(PutError::Exists(_))), "{second:?}");
    assert_eq!(world.managed.row(&id("acme")).unwrap().plan, "free");
    // Whatever its version.
    assert!(matches!(put(OnlyIf::There, "team").await, Ok(Put::Changed(..))));
    assert!(matches!(put(OnlyIf::There, "free").await, Ok(Put::Changed(..))));
}

#[tokio::test]
async fn a_made_tenant_has_its_plan_and_follows_what_the_file_says_later() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let all = world.all();
    assert!(all.tenant(&id("acme")).is_none());
    world.put("acme", json!({"plan": "team", "limits": {"weight": 3}})).await.unwrap();
    let tenant = all.tenant(&id("acme")).unwrap();
    assert_eq!((tenant.limits.active_jobs_max, tenant.limits.weight, tenant.plan.as_str()), (7, 3, "team"));
    assert!(tenant.access.shares(None));
    // Looked up, not read again.
    assert!(Arc::ptr_eq(&tenant, &all.tenant(&id("acme")).unwrap()));
    world.put("acme", json!({"plan": "team", "limits": {"weight": 4}})).await.unwrap();
    assert_eq!(all.tenant(&id("acme")).unwrap().limits.weight, 4);
    // A plan of another configuration, and one that is gone.
    let later = world.with("[[plan]]\nid = \"team\"\nactive_jobs_max = 9\n");
    assert_eq!(later.tenant(&id("acme")).unwrap().limits.active_jobs_max, 9);
    let gone = world.with("[[plan]]\nid = \"other\"\n");
    assert!(gone.tenant(&id("acme")).is_none());
    assert!(gone.closed_because(&world.managed.row(&id("acme")).unwrap()).unwrap().contains("no plan `team`"));
    assert_eq!(gone.doubts().len(), 1);
}

#[tokio::test]
async fn the_files_tenant_counts_where_both_have_the_id() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    assert!(matches!(world.put("filed", json!({"plan": "free"})).await, Err(PutError::InFile(_))));
    world.put("acme", json!({"plan": "free", "claim": "org_acme"})).await.unwrap();
    let both = world.with("[[plan]]\nid = \"free\"\n[[plan]]\nid = \"x\"\n[[tenant]]\nid = \"acme\"\nplan = \"x\"\n");
    assert_eq!(both.tenant(&id("acme")).unwrap().plan, "x");
    assert!(both.doubts()[0].contains("the file's counts"));
    assert_eq!(both.all().len(), 1);
}

#[tokio::test]
async fn ids_that_tokens_make_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let made = world.put("j-0123456789abcdef01234567", json!({"plan": "free"})).await;
    assert!(matches!(made, Err(PutError::MadeId(_))));
    assert!(world.put("j-0123456789abcdef0123456", json!({"plan": "free"})).await.is_ok());
}

#[tokio::test]
async fn nobody_is_put_in_the_owner_posture_or_beside_an_owner() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    assert_eq!(pointers(world.put("acme", json!({"plan": "trusting"})).await), ["/plan"]);
    assert_eq!(pointers(world.put("acme", json!({"plan": "beside"})).await), ["/plan"]);
    let own = |limits: Value| json!({"plan": "free", "limits": limits});
    assert_eq!(pointers(world.put("acme", own(json!({"policy": "owner"}))).await), ["/limits/policy"]);
    assert_eq!(pointers(world.put("acme", own(json!({"pool": "own"}))).await), ["/limits/pool"]);
    assert!(world.put("acme", own(json!({"pool": "other", "policy": "strict"}))).await.is_ok());
    // A pool that becomes an owner's closes who is in it.
    let later = FILE.replace("pool = \"own\"", "pool = \"other\"");
    let closed = world.with(&later);
    assert!(
        closed.tenant(&id("acme")).is_none()
            && closed.closed_because(&world.managed.row(&id("acme")).unwrap()).unwrap().contains("`boss`")
    );
}

#[tokio::test]
async fn a_claim_means_one_tenant_and_the_id_only_one_without_a_claim() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    world.put("acme", json!({"plan": "free", "claim": "org_1"})).await.unwrap();
    world.put("beta", json!({"plan": "free"})).await.unwrap();
    let claim = |claim: &str| json!({"plan": "free", "claim": claim});
    for taken in ["org_1", "org_filed", "beta", "filed"] {
        assert_eq!(pointers(world.put("gamma", claim(taken)).await), ["/claim"], "{taken}");
    }
    world.put("gamma", claim("gamma")).await.unwrap();
    world.put("delta", claim("next")).await.unwrap();
    assert_eq!(pointers(world.put("next", json!({"plan": "free"})).await), [""]);
    let all = world.all();
    let of = |value: &str| all.tenant_of_claim(value).map(|tenant| tenant.id.to_string());
    assert_eq!(
        (of("org_1").as_deref(), of("beta").as_deref(), of("org_filed").as_deref()),
        (Some("acme"), Some("beta"), Some("filed"))
    );
    assert_eq!((of("acme"), of("filed"), of("nobody")), (None, None, None));
    let with = |value: &str| match all.tenant_with_claim(value) {
        Claimed::By(tenant) => Some(tenant.id.to_string()),
        Claimed::Closed => Some("closed".to_owned()),
        Claimed::Nobody => None,
    };
    assert_eq!((with("org_1").as_deref(), with("beta")), (Some("acme"), None));
    // Where the file has the id, its tenant is another one. Neither is one made in its place.
    let hidden = world.with(&format!("{FILE}\n[[tenant]]\nid = \"acme\"\nplan = \"free\"\nclaim = \"org_2\"\n"));
    assert!(hidden.tenant_of_claim("org_1").is_none() && hidden.tenant_of_claim("org_2").is_some());
    assert!(matches!(hidden.tenant_with_claim("org_1"), Claimed::Closed), "{hidden:?}");
    let planless = world.with(&FILE.replace("id = \"free\"", "id = \"other\""));
    assert!(matches!(planless.tenant_with_claim("org_1"), Claimed::Closed), "{planless:?}");
    // A claim that was given up means nobody.
    world.put("acme", json!({"plan": "free"})).await.unwrap();
    assert!(all.tenant_of_claim("org_1").is_none() && all.tenant_of_claim("acme").is_some());
}

#[tokio::test]
async fn what_is_erased_is_closed_and_a_deleted_id_is_nobody_elses_for_ninety_days() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let all = world.all();
    world.put("acme", json!({"plan": "free", "claim": "org"})).await.unwrap();
    world.managed.begin_erasure(&id("acme"), false).await.unwrap();
    world.managed.begin_erasure(&id("filed"), false).await.unwrap();
    assert!(all.tenant(&id("acme")).unwrap().disabled && all.tenant(&id("filed")).unwrap().disabled);
    assert!(matches!(world.put("acme", json!({"plan": "team"})).await, Err(PutError::Erasing(_))));
    assert!(!world.managed.end_erasure(&id("filed"), || Arc::clone(&world.registry)).await.unwrap());
    assert!(!all.tenant(&id("filed")).unwrap().disabled);
    // A deletion may follow on an erasure, and is not taken back by a second one.
    world.managed.begin_erasure(&id("acme"), true).await.unwrap();
    assert!(world.managed.begin_erasure(&id("acme"), false).await.unwrap().deletes);
    drop((world, all));
    let world = World::new(dir.path()).await;
    assert!(world.managed.erasing(&id("acme")).unwrap().deletes, "a killed gateway remembers");
    assert!(world.managed.end_erasure(&id("acme"), || Arc::clone(&world.registry)).await.unwrap());
    let all = world.all();
    assert!(all.tenant(&id("acme")).is_none() && all.tenant_of_claim("org").is_none());

    let body = || json!({"plan": "free"});
    assert!(matches!(world.put("acme", body()).await, Err(PutError::Tombstone { .. })));
    world.clock.turn(TOMBSTONE_AGE - Duration::from_millis(1));
    assert!(matches!(world.put("acme", body()).await, Err(PutError::Tombstone { .. })));
    let reuse = PutOptions { reuse: true, ..PutOptions::default() };
    let reused = world.managed.put(&id("acme"), spec(body()), &reuse, &world.all()).await.unwrap();
    assert!(matches!(reused, Put::Made(..)));
    world.managed.begin_erasure(&id("acme"), true).await.unwrap();
    world.managed.end_erasure(&id("acme"), || Arc::clone(&world.registry)).await.unwrap();
    world.clock.turn(TOMBSTONE_AGE);
    assert!(world.put("acme", body()).await.is_ok());
}

/// The file, with a `gateway.toml` that names a tenant.
fn naming(name: &str) -> Arc<TenantRegistry> {
    let source = SourceFile { path: Path::new("/t.toml").into(), text: FILE.into() };
    let registry = crate::tenants::read_tenants(&source, Path::new("/nowhere"), &Report::default());
    Arc::new(registry.naming([(id(name), Place::file(Path::new("/g.toml")))]))
}

#[tokio::test]
async fn a_deleted_id_is_nobody_elses_as_long_as_the_configuration_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path()).await;
    let body = || json!({"plan": "free"});
    world.registry = naming("acme");
    let made = world.put("acme", body()).await.unwrap();
    assert!(made.warnings()[0].message.contains("names this id"), "{:?}", made.warnings());
    assert_eq!(
        world.put("acme", json!({"plan": "team"})).await.unwrap().warnings(),
        [],
        "it was told when it was made"
    );
    assert_eq!(world.put("beta", body()).await.unwrap().warnings(), []);
    for name in ["acme", "beta"] {
        world.managed.begin_erasure(&id(name), true).await.unwrap();
        world.managed.end_erasure(&id(name), || Arc::clone(&world.registry)).await.unwrap();
    }
    // Long after, and after another deletion, by which old tombstones are forgotten; also by a gateway that was started meanwhile.
    world.clock.turn(TOMBSTONE_AGE);
    world.put("gamma", body()).await.unwrap();
    world.managed.begin_erasure(&id("gamma"), true).await.unwrap();
    world.managed.end_erasure(&id("gamma"), || Arc::clone(&world.registry)).await.unwrap();
    let kept = |state: &crate::record::ledger::managed::ManagedState| {
        state.tombstones.iter().map(|row| row.tenant.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(kept(&world.store.managed_state().await.unwrap()), ["acme", "gamma"]);
    let (store, audit) = (Arc::clone(&world.store) as Arc<dyn ManagedRows>, audit(dir.path(), &world.clock));
    world.managed = Arc::new(ManagedTenants::load(store, audit, world.clock.clone()).await.unwrap());
    let refused = world.put("acme", body()).await.unwrap_err();
    assert!(matches!(&refused, PutError::Tombstone { .. }) && refused.to_string().contains("[[client_certificate]]"));
    assert!(world.put("beta", body()).await.is_ok());
    // Nobody names it any more.
    world.registry = registry(FILE);
    assert_eq!(world.deleted_at("acme"), None);
    assert!(world.put("acme", body()).await.is_ok());
}

#[tokio::test]
async fn a_tenant_that_is_named_and_nobody_has_made_is_told_until_it_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path()).await;
    world.registry = naming("acme");
    let doubts = world.all().doubts();
    assert!(doubts.len() == 1 && doubts[0].contains("there is no tenant `acme`"), "{doubts:?}");
    world.put("acme", json!({"plan": "free"})).await.unwrap();
    assert_eq!(world.all().doubts(), Vec::<String>::new());
    // One that is closed has a reason of its own.
    world.managed.set_disabled(&id("acme"), true).await.unwrap();
    assert_eq!(world.all().doubts(), Vec::<String>::new());
    world.registry = naming("filed");
    assert_eq!(world.all().doubts(), Vec::<String>::new());
}

#[tokio::test]
async fn ten_thousand_tenants_are_each_read_once() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    {
        let mut state = world.managed.state_mut();
        for number in 0..10_000_u32 {
            let limits = json!({"weight": number % 1000 + 1}).as_object().unwrap().clone();
            let row = ManagedTenant {
                id: id(&format!("t{number}")),
                name: None,
                plan: "free".into(),
                claim: Some(format!("org_{number}")),
                disabled: false,
                limits,
                created_at: WallMillis(1),
                changed_at: WallMillis(1),
                version: 1,
            };
            state.keep(Arc::new(row));
        }
    }
    let all = world.all();
    assert_eq!(all.all().len(), 10_002);
    for number in [0, 5_000, 9_999] {
        let found = all.tenant_of_claim(&format!("org_{number}")).unwrap();
        assert_eq!(found.limits.weight, number % 1000 + 1);
        assert!(Arc::ptr_eq(&found, &all.tenant(&found.id).unwrap()));
    }
}

#[tokio::test]
async fn an_id_that_was_deleted_and_is_in_the_file_now_can_be_written_to_and_one_that_is_not_can_t() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let key = |id: &str, tenant: &str| crate::record::ledger::suite::key_row(id, tenant);
    for name in ["acme", "beta"] {
        world.put(name, json!({"plan": "free"})).await.unwrap();
        world.managed.begin_erasure(&id(name), true).await.unwrap();
        world.managed.end_erasure(&id(name), || Arc::clone(&world.registry)).await.unwrap();
        assert!(matches!(world.store.insert_key(key("aaaaaaaaaaaa", name)).await, Err(LedgerError::Erased { .. })));
    }
    let file = format!("{FILE}\n[[tenant]]\nid = \"acme\"\nplan = \"free\"\n");
    let doubts = world.with(&file).doubts();
    assert!(doubts.len() == 1 && doubts[0].contains("`acme`") && doubts[0].contains("marked as deleted"), "{doubts:?}");
    world.managed.settle(&registry(&file)).await.unwrap();
    assert_eq!(world.with(&file).doubts(), Vec::<String>::new());
    world.store.insert_key(key("aaaaaaaaaaaa", "acme")).await.unwrap();
    let refused = world.store.insert_key(key("bbbbbbbbbbbb", "beta")).await;
    assert!(matches!(refused, Err(LedgerError::Erased { .. })), "nobody has it");
    drop(world);
    // It stays so.
    let world = World::new(dir.path()).await;
    assert_eq!((world.deleted_at("acme"), world.deleted_at("beta").is_some()), (None, true));
}

#[tokio::test]
async fn a_deletion_that_ends_when_the_file_has_the_id_leaves_no_tombstone_and_no_row() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    world.put("acme", json!({"plan": "free", "claim": "org"})).await.unwrap();
    world.managed.begin_erasure(&id("acme"), true).await.unwrap();
    let file = format!("{FILE}\n[[tenant]]\nid = \"acme\"\nplan = \"free\"\n");
    assert!(world.with(&file).doubts().iter().any(|doubt| doubt.contains("closed while what it has is erased")));
    assert!(world.managed.end_erasure(&id("acme"), || registry(&file)).await.unwrap());
    assert!(world.managed.row(&id("acme")).is_none() && world.managed.of_claim("org").is_none());
    world.store.insert_key(crate::record::ledger::suite::key_row("aaaaaaaaaaaa", "acme")).await.unwrap();
    drop(world);
    let world = World::new(dir.path()).await;
    assert!(world.managed.list().is_empty() && world.deleted_at("acme").is_none());
}

#[tokio::test]
async fn an_id_of_which_something_is_left_is_made_only_when_it_is_erased_or_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    for name in ["acme", "beta"] {
        let key = if name == "acme" { "aaaaaaaaaaaa" } else { "bbbbbbbbbbbb" };
        world.store.insert_key(crate::record::ledger::suite::key_row(key, name)).await.unwrap();
        let refused = world.put(name, json!({"plan": "free"})).await.unwrap_err();
        assert!(matches!(&refused, PutError::Leftovers { what, .. } if what.contains("API key")), "{refused:?}");
        let text = refused.to_string();
        assert!(text.contains(&format!("tenant erase {name} --yes")) && text.contains("`reuse`"), "{text}");
    }
    // Erased first.
    world.managed.begin_erasure(&id("acme"), false).await.unwrap();
    while !world.store.erase(&id("acme"), WallMillis(2_000)).await.unwrap().done {}
    world.managed.end_erasure(&id("acme"), || Arc::clone(&world.registry)).await.unwrap();
    assert!(matches!(world.put("acme", json!({"plan": "free"})).await.unwrap(), Put::Made(..)));
    // Taken over knowingly, and then it is one that is changed.
    let reuse = PutOptions { reuse: true, ..PutOptions::default() };
    let spec = || spec(json!({"plan": "free"}));
    assert!(matches!(world.managed.put(&id("beta"), spec(), &reuse, &world.all()).await.unwrap(), Put::Made(..)));
    assert!(world.store.key(&"bbbbbbbbbbbb".parse().unwrap()).await.is_ok());
    assert!(world.put("beta", json!({"plan": "team"})).await.is_ok());
    // One that never had anything.
    assert!(world.put("gamma", json!({"plan": "free"})).await.is_ok());
}

fn named(number: usize) -> String {
    format!("t{number}")
}

#[tokio::test]
async fn a_configuration_that_takes_a_plan_away_would_close_who_is_on_it_and_tells_it_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    for number in 0..5 {
        world.put(&named(number), json!({"plan": "free"})).await.unwrap();
    }
    world.put("closed", json!({"plan": "free", "disabled": true})).await.unwrap();
    world.put("other", json!({"plan": "team"})).await.unwrap();
    let wanted = crate::tenants::created::WantedTenant {
        id: crate::tenants::made_id("https://id.example/", "org"),
        issuer: "https://id.example/".into(),
        claim: "org".into(),
        plan: "free".into(),
        issued_at: None,
    };
    world.created.ensure(&wanted, 9).await.unwrap();
    let now = world.all();
    assert_eq!((world.all().would_close(&now), now.closed(), now.doubts()), (vec![], vec![], Vec::<String>::new()));
    let renamed = world.with(&FILE.replace("id = \"free\"", "id = \"gratis\""));
    let closed = renamed.would_close(&now);
    assert_eq!((closed.len(), closed[0].tenants.len()), (1, 6), "{closed:?}");
    let refusal = closed[0].refusal();
    for part in [
        "6 tenants on the plan `free`",
        "and 3 more",
        "no plan `free` in tenants.toml",
        "tenant set ID --plan",
        "; then `comfygate reload`",
    ] {
        assert!(refusal.contains(part), "{part}: {refusal}");
    }
    assert!(!refusal.contains("closed`") && !refusal.contains("other`"), "{refusal}");
    // At a start they are closed, and told in one line.
    let doubts = renamed.doubts();
    assert!(doubts.len() == 1 && doubts[0].contains("6 tenants") && doubts[0].contains("are closed"), "{doubts:?}");
    assert!(renamed.tenant(&id("t0")).is_none() && renamed.tenant(&wanted.id).is_none());
    // What is so already refuses nothing, and neither do tenants that somebody closed.
    assert_eq!(renamed.would_close(&renamed), vec![]);
    for number in 0..5 {
        world.managed.set_disabled(&id(&named(number)), true).await.unwrap();
    }
    world.created.set_disabled(&wanted.id, true).await.unwrap();
    let renamed = world.with(&FILE.replace("id = \"free\"", "id = \"gratis\""));
    assert_eq!((renamed.would_close(&now), renamed.closed()), (vec![], vec![]));
    // A plan whose pool becomes an owner's.
    world.put("other", json!({"plan": "team"})).await.unwrap();
    let owned =
        FILE.replace("id = \"team\"", "id = \"team\"\npool = \"own\"").replace("plan = \"team\"", "plan = \"free\"");
    let closed = world.with(&owned).would_close(&now);
    assert!(closed.len() == 1 && closed[0].refusal().contains("`boss`"), "{closed:?}");
}

fn backend(pool: &str, tags: &[&str]) -> crate::config::BackendConfig {
    let mut backend = crate::config::Config::built_in(Path::new("/nowhere").into()).backends.remove(0);
    backend.pool = pool.parse().unwrap();
    backend.tags = tags.iter().map(|tag| tag.parse().unwrap()).collect();
    backend
}

#[tokio::test]
async fn a_pool_or_tags_that_no_backend_has_are_a_fault_at_their_pointer_and_close_when_they_go() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let with = |backends: &[crate::config::BackendConfig]| {
        let source = SourceFile { path: Path::new("/t.toml").into(), text: FILE.into() };
        let registry = crate::tenants::read_tenants(&source, Path::new("/nowhere"), &Report::default());
        let registry = Arc::new(registry.with_backends(backends));
        AllTenants::new(registry, Arc::clone(&world.managed), Arc::clone(&world.created), 9)
    };
    let all = with(&[backend("default", &[]), backend("fast", &["h200"])]);
    let put = async |limits: Value| {
        let spec = spec(json!({"plan": "free", "limits": limits}));
        world.managed.put(&id("acme"), spec, &PutOptions::default(), &all).await
    };
    let fault = |put: Result<Put, PutError>| match put {
        Err(PutError::Faulty(faults)) if faults.len() == 1 => faults.into_iter().next().unwrap(),
        other => panic!("{other:?}"),
    };
    let pool = fault(put(json!({"pool": "nope"})).await);
    assert_eq!(pool.pointer, "/limits/pool");
    assert!(pool.message.contains("tenant `acme` is in the pool `nope`, which has no backend"), "{pool:?}");
    let tags = fault(put(json!({"backend_tags": ["nope"]})).await);
    assert_eq!(tags.pointer, "/limits/backend_tags");
    assert!(tags.message.contains("all of the tags `nope`, and none of its pool `default` has them"), "{tags:?}");
    assert_eq!(fault(put(json!({"backend_tags": ["h200"]})).await).pointer, "/limits/backend_tags");
    assert!(put(json!({"pool": "fast", "backend_tags": ["h200"]})).await.is_ok());
    // The same with backends that are fewer later.
    let fewer = with(&[backend("default", &[])]);
    let closed = fewer.would_close(&all);
    assert!(closed.len() == 1 && closed[0].refusal().contains("pool `fast`, which has no backend"), "{closed:?}");
    assert!(fewer.tenant(&id("acme")).is_none() && all.tenant(&id("acme")).is_some());
}

#[tokio::test]
async fn a_tenant_that_was_closed_stays_so_until_a_body_says_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let put = async |body: Value| (*world.put("acme", body).await.unwrap().row()).as_ref().clone();
    assert!(!put(json!({"plan": "free"})).await.disabled);
    world.managed.set_disabled(&id("acme"), true).await.unwrap();
    let again = put(json!({"plan": "free"})).await;
    assert_eq!((again.disabled, again.version), (true, 2), "nothing was written");
    let changed = put(json!({"plan": "team"})).await;
    assert_eq!((changed.disabled, changed.version), (true, 3));
    assert!(!put(json!({"plan": "team", "disabled": false})).await.disabled);
    assert!(put(json!({"plan": "team", "disabled": true})).await.disabled);
}

#[tokio::test]
async fn a_claim_by_which_tokens_made_a_tenant_is_taken_knowingly_only() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let made = crate::tenants::made_id("https://id.example/", "org_9");
    let wanted = crate::tenants::created::WantedTenant {
        id: made.clone(),
        issuer: "https://id.example/".into(),
        claim: "org_9".into(),
        plan: "free".into(),
        issued_at: None,
    };
    world.created.ensure(&wanted, 9).await.unwrap();
    let body = || json!({"plan": "free", "claim": "org_9"});
    let refused = world.put("acme", body()).await.unwrap_err();
    assert!(matches!(&refused, PutError::ClaimMade { made: whose, .. } if *whose == made), "{refused:?}");
    assert!(refused.to_string().contains(made.as_str()) && refused.to_string().contains("`reuse`"), "{refused}");
    assert!(world.put("acme", json!({"plan": "free", "claim": "org_8"})).await.is_ok());
    assert!(world.put("acme", body()).await.is_err(), "nor by a change");
    let reuse = PutOptions { reuse: true, ..PutOptions::default() };
    world.managed.put(&id("acme"), spec(body()), &reuse, &world.all()).await.unwrap();
    // Once taken it is its own.
    assert!(world.put("acme", json!({"plan": "team", "claim": "org_9"})).await.is_ok());
}

#[tokio::test]
async fn a_file_that_takes_a_claim_over_is_told_with_whom_it_was_taken_from() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path()).await;
    let made = crate::tenants::made_id("https://id.example/", "org_3");
    let wanted = crate::tenants::created::WantedTenant {
        id: made.clone(),
        issuer: "https://id.example/".into(),
        claim: "org_3".into(),
        plan: "free".into(),
        issued_at: None,
    };
    world.created.ensure(&wanted, 9).await.unwrap();
    world.put("zebra", json!({"plan": "free", "claim": "org_1"})).await.unwrap();
    world.put("beta", json!({"plan": "free"})).await.unwrap();
    let doubts = |added: &str| world.with(&format!("{FILE}\n[[tenant]]\nplan = \"free\"\n{added}\n")).doubts();
    let only = |added: &str| {
        let doubts = doubts(added);
        assert_eq!(doubts.len(), 1, "{added}: {doubts:?}");
        doubts.into_iter().next().unwrap()
    };
    let told = only("id = \"x\"\nclaim = \"org_1\"");
    assert!(told.contains("`org_1` lead to `x` of tenants.toml") && told.contains("to `zebra` of"), "{told}");
    let told = only("id = \"org_1\"");
    assert!(told.contains("lead to `org_1`") && told.contains("`zebra`"), "{told}");
    let told = only("id = \"org_1\"\nclaim = \"other\"");
    assert!(told.contains("lead to nobody now") && told.contains("`zebra`"), "{told}");
    // Whoever has no claim is meant by the id.
    let told = only("id = \"x\"\nclaim = \"beta\"");
    assert!(told.contains("lead to `x`") && told.contains("to `beta` of"), "{told}");
    let told = only("id = \"x\"\nclaim = \"org_3\"");
    assert!(told.contains("lead to `x`") && told.contains(made.as_str()), "{told}");
    // An issuer whose tokens make tenants finds none of the file by its id.
    assert_eq!(doubts("id = \"org_3\""), Vec::<String>::new());
    assert_eq!(doubts("id = \"x\"\nclaim = \"org_2\""), Vec::<String>::new());
    world.created.set_disabled(&made, true).await.unwrap();
    world.managed.set_disabled(&id("zebra"), true).await.unwrap();
    for knowingly in ["id = \"x\"\nclaim = \"org_3\"", "id = \"x\"\nclaim = \"org_1\""] {
        assert_eq!(doubts(knowingly), Vec::<String>::new(), "{knowingly}");
    }
}
