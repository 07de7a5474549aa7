//! Classes that an operator has banned for everybody: over every document, in every posture and mode.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Policy;
use crate::digest::Digest;

/// Banned classes with the reason that was given, if one was.
#[derive(Debug, Clone, Default)]
pub(super) struct Bans(Arc<BTreeMap<String, Option<String>>>);

impl Bans {
    pub(super) fn has(&self, class: &str) -> bool {
        self.0.contains_key(class)
    }

    pub(super) fn reason(&self, class: &str) -> Option<&str> {
        self.0.get(class)?.as_deref()
    }
}

impl Policy {
    /// The same policy, which denies these classes besides; its digest tells the bans as well, so that earlier verdicts are made anew. Bans of an earlier call are replaced; without any the
    /// policy is as its document says.
    ///
    /// ```
    /// let policy = comfygate_policy::Policy::builtin("default").unwrap();
    /// let banning = policy.banning([("LoadImage".to_owned(), None)]);
    /// assert_ne!(banning.digest(), policy.digest());
    /// assert_eq!(banning.banning([]).digest(), policy.digest());
    /// ```
    #[must_use]
    pub fn banning(&self, bans: impl IntoIterator<Item = (String, Option<String>)>) -> Policy {
        let bans: BTreeMap<_, _> = bans.into_iter().collect();
        Policy { bans: Bans(Arc::new(bans)), ..self.clone() }
    }

    /// The digest of a document's policy together with its bans.
    pub(super) fn banned_digest(&self, document: Digest) -> Digest {
        if self.bans.0.is_empty() {
            return document;
        }
        // Lengths before texts: no two lists read alike.
        let mut text = format!("{document}\n");
        for (class, reason) in self.bans.0.iter() {
            let reason = reason.as_deref().unwrap_or_default();
            text.push_str(&format!("{} {class} {} {reason}\n", class.len(), reason.len()));
        }
        Digest::of(text.as_bytes())
    }

    /// Why a banned class is banned, if that was said.
    pub(crate) fn ban_reason(&self, class: &str) -> Option<&str> {
        self.bans.reason(class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Catalogue;
    use crate::files::FileFacts;
    use crate::verdict::Verdict;

    const BODY: &[u8] = br#"{"prompt": {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}}"#;

    fn banning(class: &str, reason: Option<&str>) -> Policy {
        Policy::builtin("default").unwrap().banning([(class.to_owned(), reason.map(str::to_owned))])
    }

    fn codes(policy: &Policy) -> Vec<(&'static str, String)> {
        let parsed = crate::parse(BODY).unwrap();
        match crate::decide(&parsed, policy, Catalogue::builtin(), &FileFacts::none()) {
            Verdict::Allow(_) => Vec::new(),
            Verdict::Deny(violations) => violations.iter().map(|one| (one.code, one.message.clone())).collect(),
        }
    }

    #[test]
    fn a_banned_class_is_denied_with_its_reason_and_another_is_not() {
        let found = codes(&banning("EmptyImage", Some("it leaks")));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, "class_banned");
        assert!(found[0].1.contains("it leaks"), "{found:?}");
        assert!(codes(&banning("emptyimage", None)).is_empty());
    }

    #[test]
    fn a_banned_class_is_not_shown_to_callers() {
        let class = Catalogue::builtin().class("EmptyImage").unwrap();
        assert!(Policy::builtin("default").unwrap().allows_class(class));
        assert!(!banning("EmptyImage", None).allows_class(class));
    }

    #[test]
    fn the_digest_tells_every_ban_and_reason_apart() {
        let digests = [banning("A", None), banning("A", Some("x")), banning("B", None)].map(|policy| policy.digest());
        assert!(digests[0] != digests[1] && digests[0] != digests[2] && digests[1] != digests[2]);
        assert_eq!(banning("A", None).digest(), digests[0]);
    }

    #[test]
    fn an_owner_is_held_to_bans_too() {
        let owner = Policy::builtin("owner").unwrap().banning([("EmptyImage".to_owned(), None)]);
        assert_eq!(codes(&owner).first().map(|found| found.0), Some("class_banned"));
    }
}
