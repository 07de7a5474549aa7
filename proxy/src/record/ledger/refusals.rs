//! Submissions that the policy refused, so that an operator can look at them later: what was asked, which rule said no, and which change of the policy would allow it.
//!
//! Kept under bounds of its own, whatever callers send: rows by number for each tenant and in all, by age, and by bytes; graphs by number and by bytes.

use super::LedgerError;
use crate::clock::WallMillis;
use crate::ids::{RequestId, TenantId};
use crate::owner::Owner;
use async_trait::async_trait;
use bytes::Bytes;
use comfygate_policy::Digest;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Rules that a row names; a workflow may break a thousand.
pub const RULES_KEPT_MAX: usize = 50;
/// Characters of a rule's reason; the others of its texts are cut to a third. Some of it comes from a caller.
pub const BECAUSE_CHARS_MAX: usize = 600;
/// Bytes of a row: beyond it, rules are only counted.
pub const ROW_BYTES_MAX: usize = 32 << 10;
/// A larger graph is not kept: its digest is.
pub const GRAPH_BYTES_MAX: usize = 256 << 10;

/// How much is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusalBounds {
    /// Of one tenant; beyond it the oldest goes.
    pub tenant_max: usize,
    /// Of all tenants together.
    pub total_max: u64,
    /// Of one tenant, those whose graph is kept: the newest.
    pub tenant_graphs_max: usize,
    /// Of all tenants together.
    pub total_graphs_max: u64,
    /// Older ones are forgotten.
    pub age_max: Duration,
}

impl Default for RefusalBounds {
    /// A month; at most some 300 MiB of rows and 250 MiB of graphs, of which one tenant can take a tenth.
    fn default() -> Self {
        Self {
            tenant_max: 1000,
            total_max: 10_000,
            tenant_graphs_max: 100,
            total_graphs_max: 1000,
            age_max: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default, schemars::JsonSchema)]
pub struct RefusedRule {
    /// The engine's stable code, such as `cap_exceeded`.
    pub code: String,
    /// The node at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Its class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Its input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// JSON pointer in the submission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// What was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<String>,
    /// What is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// Why, in words, with the chain of nodes that led to the bound.
    pub because: String,
    /// The change of the policy that would allow it; none where no policy can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<RuleChange>,
}

/// A change of one key of a policy document, as the engine suggests it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RuleChange {
    /// The key with its section, such as `caps.width`.
    pub key: String,
    /// What becomes of it.
    #[serde(flatten)]
    pub change: KeyChange,
}

/// What becomes of a key. Numbers are texts, so that what was suggested is what is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyChange {
    /// At least this number.
    Raise(String),
    /// At most this number.
    Lower(String),
    /// This name is added to the list.
    Add(String),
    /// What matches this name is taken out of the list.
    Remove(String),
    /// This TOML value.
    Set(String),
}

/// A submission that was refused, or would have been if its policy did not only watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RefusalRow {
    /// The request that brought it, as its answer names it.
    pub request: RequestId,
    /// When.
    pub at: WallMillis,
    /// Who asked.
    pub owner: Owner,
    /// It was accepted all the same: the policy is in shadow mode.
    #[serde(default)]
    pub shadow: bool,
    /// The stable code of the answer.
    pub code: String,
    /// The name of the policy.
    pub policy: String,
    /// The policy that it was judged by, with what is banned.
    #[schemars(with = "String")]
    pub policy_digest: Digest,
    /// The catalogue that it was read by; absent if it was no submission at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub catalogue: Option<Digest>,
    /// The canonical submission; absent if it was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub submission: Option<Digest>,
    /// The rules that it broke, in the order of its nodes.
    pub rules: Vec<RefusedRule>,
    /// How many further rules are only counted.
    #[serde(default)]
    pub more: u64,
}

impl RefusalRow {
    /// The row within its bounds, whatever a caller's names and texts are. What is cut off is counted.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        let over = self.rules.len().saturating_sub(RULES_KEPT_MAX);
        self.rules.truncate(RULES_KEPT_MAX);
        self.more = self.more.saturating_add(over as u64);
        self.rules.iter_mut().for_each(RefusedRule::bound_texts);
        let mut bytes = 0_usize;
        let fits = |rule: &RefusedRule| {
            bytes = bytes.saturating_add(serde_json::to_vec(rule).map_or(usize::MAX, |row| row.len()));
            bytes <= ROW_BYTES_MAX
        };
        let kept = self.rules.iter().map(fits).take_while(|fits| *fits).count();
        self.more = self.more.saturating_add(self.rules.len().saturating_sub(kept) as u64);
        self.rules.truncate(kept);
        self
    }
}

impl RefusedRule {
    fn bound_texts(&mut self) {
        let cut = |text: &mut String, chars_max: usize| {
            if let Some((end, _)) = text.char_indices().nth(chars_max) {
                text.truncate(end);
                text.push('…');
            }
        };
        cut(&mut self.because, BECAUSE_CHARS_MAX);
        let Self { node, class, input, pointer, bound, limit, .. } = self;
        for text in [node, class, input, pointer, bound, limit].into_iter().flatten() {
            cut(text, BECAUSE_CHARS_MAX / 3);
        }
        // A cut name would be another name: what is too long is not suggested.
        let long = |change: &RuleChange| match &change.change {
            KeyChange::Raise(text)
            | KeyChange::Lower(text)
            | KeyChange::Add(text)
            | KeyChange::Remove(text)
            | KeyChange::Set(text) => text.chars().count() > BECAUSE_CHARS_MAX / 3,
        };
        self.allow = self.allow.take().filter(|change| !long(change));
    }
}

/// Which refusals are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RefusalQuery {
    /// Of this tenant only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// Not older than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<WallMillis>,
    /// Those of shadow mode, instead of true refusals.
    #[serde(default)]
    pub shadow: bool,
    /// At most this many, the newest.
    pub limit: usize,
}

/// The store of refused submissions.
#[async_trait]
pub trait Refusals: Send + Sync {
    /// Remembers a refusal, with its graph if that is small enough; what is over the bounds is forgotten. The row is taken as [`RefusalRow::bounded`] makes it.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn insert_refusal(
        &self,
        row: RefusalRow,
        graph: Option<Bytes>,
        bounds: RefusalBounds,
    ) -> Result<(), LedgerError>;

    /// Those that are asked for, newest first.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn refusals(&self, query: RefusalQuery) -> Result<Vec<RefusalRow>, LedgerError>;

    /// That of one request, and its graph if it is still kept.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    async fn refusal(&self, request: RequestId) -> Result<(RefusalRow, Option<Bytes>), LedgerError>;
}

#[cfg(test)]
pub(super) mod suite {
    use super::*;

    pub(in crate::record::ledger) fn row(tenant: &str, at: u64) -> RefusalRow {
        RefusalRow {
            request: RequestId::new(),
            at: WallMillis(at),
            owner: Owner { tenant: tenant.parse().unwrap(), user: None, key: None, shared: false },
            shadow: false,
            code: "policy_violation".into(),
            policy: "default".into(),
            policy_digest: Digest::of(b"policy"),
            catalogue: None,
            submission: None,
            rules: vec![RefusedRule {
                code: "cap_exceeded".into(),
                because: "too wide".into(),
                ..RefusedRule::default()
            }],
            more: 0,
        }
    }

    fn all(tenant: Option<&str>) -> RefusalQuery {
        RefusalQuery { tenant: tenant.map(|id| id.parse().unwrap()), limit: 100, ..RefusalQuery::default() }
    }

    async fn times(store: &impl Refusals, query: RefusalQuery) -> Vec<u64> {
        store.refusals(query).await.unwrap().iter().map(|row| row.at.0).collect()
    }

    async fn insert(store: &impl Refusals, row: RefusalRow, bounds: RefusalBounds) -> RequestId {
        let request = row.request;
        store.insert_refusal(row, Some(Bytes::from_static(b"{}")), bounds).await.unwrap();
        request
    }

    pub(in crate::record::ledger) async fn refusals_are_told_newest_first_and_by_tenant_and_time(
        store: &impl Refusals,
    ) {
        let bounds = RefusalBounds::default();
        for (tenant, at) in [("a", 1), ("b", 2), ("a", 3)] {
            insert(store, row(tenant, at), bounds).await;
        }
        insert(store, RefusalRow { shadow: true, ..row("a", 4) }, bounds).await;
        assert_eq!(times(store, all(None)).await, [3, 2, 1]);
        assert_eq!(times(store, all(Some("a"))).await, [3, 1]);
        assert_eq!(times(store, RefusalQuery { since: Some(WallMillis(3)), ..all(None) }).await, [3]);
        assert_eq!(times(store, RefusalQuery { limit: 2, ..all(None) }).await, [3, 2]);
        assert_eq!(times(store, RefusalQuery { shadow: true, ..all(None) }).await, [4]);
    }

    pub(in crate::record::ledger) async fn one_refusal_is_found_by_its_request_with_its_graph(store: &impl Refusals) {
        let request = insert(store, row("a", 1), RefusalBounds::default()).await;
        let (found, graph) = store.refusal(request).await.unwrap();
        assert_eq!((found.request, graph.as_deref()), (request, Some(b"{}".as_slice())));
        let big = row("a", 2);
        let (request, over) = (big.request, Bytes::from(vec![b' '; GRAPH_BYTES_MAX + 1]));
        store.insert_refusal(big, Some(over), RefusalBounds::default()).await.unwrap();
        assert_eq!(store.refusal(request).await.unwrap().1, None);
        assert!(matches!(store.refusal(RequestId::new()).await, Err(LedgerError::NotFound { .. })));
    }

    pub(in crate::record::ledger) async fn the_oldest_refusals_of_a_tenant_go_first_and_no_other_tenants(
        store: &impl Refusals,
    ) {
        let bounds = RefusalBounds { tenant_max: 2, tenant_graphs_max: 1, ..RefusalBounds::default() };
        insert(store, row("b", 1), bounds).await;
        let first = insert(store, row("a", 2), bounds).await;
        let second = insert(store, row("a", 3), bounds).await;
        assert_eq!(times(store, all(None)).await, [3, 2, 1]);
        assert_eq!(store.refusal(first).await.unwrap().1, None, "only the newest graph is kept");
        assert!(store.refusal(second).await.unwrap().1.is_some());
        insert(store, row("a", 4), bounds).await;
        assert_eq!(times(store, all(None)).await, [4, 3, 1]);
        assert!(matches!(store.refusal(first).await, Err(LedgerError::NotFound { .. })));
    }

    pub(in crate::record::ledger) async fn refusals_are_bounded_in_all_and_by_age(store: &impl Refusals) {
        let bounds = RefusalBounds { total_max: 2, total_graphs_max: 1, ..RefusalBounds::default() };
        let first = insert(store, row("a", 1), bounds).await;
        insert(store, row("b", 2), bounds).await;
        assert_eq!(store.refusal(first).await.unwrap().1, None, "only the newest graph of all is kept");
        insert(store, row("c", 3), bounds).await;
        assert_eq!(times(store, all(None)).await, [3, 2]);
        let young = RefusalBounds { age_max: Duration::from_millis(10), ..RefusalBounds::default() };
        insert(store, row("c", 13), young).await;
        assert_eq!(times(store, all(Some("c"))).await, [13, 3], "ten milliseconds old is young enough");
        insert(store, row("c", 14), young).await;
        assert_eq!(times(store, all(Some("c"))).await, [14, 13]);
    }

    #[test]
    fn a_row_keeps_fifty_rules_and_counts_the_others() {
        let rule = |chars: usize| RefusedRule { because: "é".repeat(chars), ..RefusedRule::default() };
        let of = |rules: usize| RefusalRow { rules: vec![rule(1); rules], ..row("a", 1) }.bounded();
        assert_eq!((of(50).rules.len(), of(50).more), (50, 0));
        assert_eq!((of(51).rules.len(), of(51).more), (50, 1));
        let long =
            RefusalRow { rules: vec![rule(BECAUSE_CHARS_MAX), rule(BECAUSE_CHARS_MAX + 1)], ..row("a", 1) }.bounded();
        assert_eq!(long.rules[0].because.chars().count(), BECAUSE_CHARS_MAX);
        assert!(long.rules[1].because.ends_with('…'));
        let heavy = RefusalRow { rules: vec![rule(BECAUSE_CHARS_MAX); 50], ..row("a", 1) }.bounded();
        assert_eq!(heavy.rules.len() as u64 + heavy.more, 50);
        assert!(heavy.more > 0 && serde_json::to_vec(&heavy).unwrap().len() < ROW_BYTES_MAX + 1024);
    }

    #[test]
    fn a_name_too_long_to_be_kept_whole_is_not_suggested() {
        let with = |chars: usize| {
            let allow = Some(RuleChange { key: "classes.allow".into(), change: KeyChange::Add("x".repeat(chars)) });
            let rules = vec![RefusedRule { allow, ..RefusedRule::default() }];
            RefusalRow { rules, ..row("a", 1) }.bounded().rules[0].allow.is_some()
        };
        assert!(with(BECAUSE_CHARS_MAX / 3));
        assert!(!with(BECAUSE_CHARS_MAX / 3 + 1));
    }
}
