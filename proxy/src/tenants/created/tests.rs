use super::*;
use crate::config::AuditConfig;
use crate::record::ledger::managed::ManagedRows;
use crate::record::ledger::redb::{RedbLedger, RedbOptions};
use crate::tenants::managed::ManagedTenants;
use crate::tenants::{AllTenants, Plan, Tenant, TenantRegistry};
use comfygate_policy::Policy;
use std::path::Path;
use std::time::Duration;

const ISSUER: &str = "https://id.example/";

fn wanted(claim: &str, plan: &str, issued_at: u64) -> WantedTenant {
    WantedTenant {
        id: made_id(ISSUER, claim),
        issuer: ISSUER.into(),
        claim: claim.into(),
        plan: plan.into(),
        issued_at: Some(issued_at),
    }
}

async fn created(dir: &Path) -> (Arc<CreatedTenants>, Clock) {
    let (created, _, clock) = both(dir).await;
    (created, clock)
}

async fn both(dir: &Path) -> (Arc<CreatedTenants>, Arc<ManagedTenants>, Clock) {
    let clock = Clock::turned_by_hand(WallMillis(1_000));
    let audit =
        Audit::open(&AuditConfig::File { path: dir.join("audit.jsonl"), rotation: None }, clock.clone()).unwrap();
    let store = Arc::new(RedbLedger::open(dir, RedbOptions::default()).unwrap());
    let rows: Arc<dyn ManagedRows> = Arc::clone(&store) as Arc<dyn ManagedRows>;
    let managed = ManagedTenants::load(rows, audit.clone(), clock.clone()).await.unwrap();
    (Arc::new(CreatedTenants::load(store, audit, clock.clone()).await.unwrap()), Arc::new(managed), clock)
}

#[test]
fn an_id_follows_from_issuer_and_claim_and_no_other_pair_has_it() {
    assert_eq!(made_id(ISSUER, "org"), made_id(ISSUER, "org"));
    let others = [made_id("https://other.example/", "org"), made_id(ISSUER, "Org"), made_id(ISSUER, "org ")];
    assert!(others.iter().all(|id| *id != made_id(ISSUER, "org")));
    // Where one text ends and the next begins is part of it.
    assert_ne!(made_id("a", "\nb"), made_id("a\n", "b"));
    assert!(is_made_id(&made_id(ISSUER, "org")));
    for text in ["acme", "j-", "j-0123456789abcdef0123456", "j-0123456789abcdef012345678", "j-0123456789abcdeg01234567"]
    {
        assert!(!is_made_id(&text.parse().unwrap()), "{text}");
    }
}

#[tokio::test]
async fn a_made_tenant_has_the_limits_of_its_plan_and_is_found_by_its_id_only() {
    let dir = tempfile::tempdir().unwrap();
    let (created, managed, _) = both(dir.path()).await;
    let tenants = AllTenants::new(Arc::new(TenantRegistry::built_in()), managed, created, 9);
    let wanted = wanted("Acme Inc.", "default", 1);
    assert!(tenants.tenant(&wanted.id).is_none());
    tenants.ensure(&wanted).await.unwrap();
    let tenant = tenants.tenant(&wanted.id).unwrap();
    assert_eq!((tenant.name.as_deref(), tenant.plan.as_str(), tenant.disabled), (Some("Acme Inc."), "default", false));
    assert_eq!(tenant.limits, TenantRegistry::built_in().plan("default").unwrap().limits);
    assert!(tenants.tenant_of_claim(wanted.id.as_str()).is_none());
    assert!(tenants.tenant_of_claim("Acme Inc.").is_none());
    assert!(tenants.tenant(&"local".parse().unwrap()).is_some());
}

#[tokio::test]
async fn a_tenant_whose_plan_is_gone_is_gone_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let (created, managed, _) = both(dir.path()).await;
    let tenants = AllTenants::new(Arc::new(TenantRegistry::built_in()), managed, created, 9);
    let (there, wanted) = (wanted("other", "default", 1), wanted("org", "no such plan", 1));
    tenants.ensure(&wanted).await.unwrap();
    assert!(tenants.tenant(&wanted.id).is_none());
    let doubts = tenants.doubts();
    assert!(doubts.len() == 1 && doubts[0].contains("`no such plan`"), "{doubts:?}");
    tenants.ensure(&there).await.unwrap();
    assert_eq!(tenants.doubts(), doubts, "one whose plan is there");
}

#[tokio::test]
async fn a_tenant_whose_plan_became_an_owners_is_gone_while_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (created, managed, _) = both(dir.path()).await;
    let wanted = wanted("org", "p", 1);
    created.ensure(&wanted, 9).await.unwrap();
    let plain = TenantRegistry::built_in().plan("default").unwrap().clone();
    let owners = Plan { policy: Arc::new(Policy::builtin("owner").unwrap()), ..plain.clone() };
    let with = |plan: &Plan, tenants: Vec<Tenant>| {
        let registry = TenantRegistry::new(tenants, []).with_plans([("p".to_owned(), Some(plan.clone()))]);
        AllTenants::new(Arc::new(registry), Arc::clone(&managed), Arc::clone(&created), 9).tenant(&wanted.id)
    };
    assert!(with(&plain, vec![]).is_some());
    assert!(with(&owners, vec![]).is_none());
    // Nor while its pool is an owner's.
    let local = TenantRegistry::built_in().tenants().next().unwrap().as_ref().clone();
    assert!(with(&plain, vec![local.clone()]).is_some());
    assert!(with(&plain, vec![Tenant { policy: owners.policy.clone(), ..local }]).is_none());
}

#[tokio::test]
async fn as_many_are_made_as_may_be_and_those_that_are_there_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (created, _) = created(dir.path()).await;
    created.ensure(&wanted("a", "default", 1), 2).await.unwrap();
    created.ensure(&wanted("b", "default", 1), 2).await.unwrap();
    let full = created.ensure(&wanted("c", "default", 1), 2).await.unwrap_err();
    assert!(matches!(full, CreateError::Full { limit: 2 }));
    created.ensure(&wanted("a", "default", 1), 2).await.unwrap();
    assert_eq!(created.list().len(), 2);
}

#[tokio::test]
async fn an_id_of_another_claim_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (created, _) = created(dir.path()).await;
    let first = wanted("a", "default", 1);
    created.ensure(&first, 9).await.unwrap();
    for other in [
        WantedTenant { claim: "b".into(), ..first.clone() },
        WantedTenant { issuer: "https://other.example/".into(), ..first.clone() },
    ] {
        assert!(matches!(created.ensure(&other, 9).await, Err(CreateError::Collision(_))));
    }
}

#[tokio::test]
async fn the_plan_is_that_of_the_newest_token_and_a_token_without_time_changes_none() {
    let dir = tempfile::tempdir().unwrap();
    let (created, _) = created(dir.path()).await;
    let id = made_id(ISSUER, "a");
    let mut plans = Vec::new();
    for (plan, issued_at) in [("free", 100), ("gold", 100), ("gold", 101), ("free", 50)] {
        created.ensure(&wanted("a", plan, issued_at), 9).await.unwrap();
        plans.push(created.row(&id).unwrap().plan);
    }
    created.ensure(&WantedTenant { issued_at: None, ..wanted("a", "free", 0) }, 9).await.unwrap();
    plans.push(created.row(&id).unwrap().plan);
    assert_eq!(plans, ["free", "free", "gold", "gold", "gold"]);
}

#[tokio::test]
async fn a_closed_tenant_stays_closed_over_new_tokens_and_a_restart_until_it_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let id = made_id(ISSUER, "a");
    {
        let (created, clock) = created(dir.path()).await;
        created.ensure(&wanted("a", "free", 1), 9).await.unwrap();
        clock.turn(Duration::from_secs(1));
        assert_eq!(created.set_disabled(&id, true).await.unwrap().unwrap().disabled_at, Some(WallMillis(2_000)));
        created.ensure(&wanted("a", "gold", 2), 9).await.unwrap();
        assert!(created.row(&id).unwrap().disabled_at.is_some());
    }
    let (again, _) = created(dir.path()).await;
    assert_eq!(again.row(&id).unwrap().disabled_at, Some(WallMillis(2_000)));
    assert_eq!(again.set_disabled(&id, false).await.unwrap().unwrap().disabled_at, None);
    assert!(again.set_disabled(&"acme".parse().unwrap(), true).await.unwrap().is_none());
}

#[tokio::test]
async fn of_two_changes_the_older_one_never_comes_out_on_top() {
    let dir = tempfile::tempdir().unwrap();
    let (created, _) = created(dir.path()).await;
    created.ensure(&wanted("a", "free", 1), 9).await.unwrap();
    let id = made_id(ISSUER, "a");
    let open = created.row(&id).unwrap();
    created.set_disabled(&id, true).await.unwrap();
    created.keep(open);
    assert!(created.row(&id).unwrap().disabled_at.is_some());
}
