//! Signed URLs: `[public_url]/gate/files/<file id>?expires=<seconds since 1970>&key=<key id>&signature=<base64url>`.

use super::signature::Claims;
use super::signing_key::SigningKeys;
use crate::clock::WallMillis;
use crate::config::PublicUrl;
use crate::ids::{FileId, TenantId};
use crate::record::ledger::FileRow;
use crate::route::Query;
use arc_swap::ArcSwap;
use std::time::Duration;

/// The only form of a file that this release serves.
const VARIANT: &str = "original";
/// The longest that a URL may be good for: whoever it was passed on to can't be asked to give it back.
const LIFETIME_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Makes and checks signed URLs.
#[derive(Debug)]
pub struct Links {
    keys: SigningKeys,
    form: ArcSwap<Form>,
}

/// What a reload may change.
#[derive(Debug)]
struct Form {
    base: String,
    lifetime: Duration,
}

impl Form {
    fn new(public_url: Option<&PublicUrl>, lifetime: Duration) -> Self {
        let base = public_url.map(|url| url.as_str().to_owned()).unwrap_or_default();
        Self { base, lifetime: lifetime.min(LIFETIME_MAX) }
    }
}

/// Why a URL opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Not one that we made, or changed since.
    #[error("the URL's signature is not valid")]
    Invalid,
    /// Ours, and over.
    #[error("the URL has expired")]
    Expired,
}

impl Links {
    /// URLs below `public_url` (relative without one), good for `lifetime`, at most seven days.
    pub fn new(keys: SigningKeys, public_url: Option<&PublicUrl>, lifetime: Duration) -> Self {
        Self { keys, form: ArcSwap::from_pointee(Form::new(public_url, lifetime)) }
    }

    /// From now on URLs are like this; those given out stay good until they expire.
    pub fn set(&self, public_url: Option<&PublicUrl>, lifetime: Duration) {
        self.form.store(std::sync::Arc::new(Form::new(public_url, lifetime)));
    }

    /// A URL for a file, from now on. Without a key there is none: then an empty text, which opens nothing.
    pub fn signed(&self, tenant: &TenantId, file: FileId, now: WallMillis) -> String {
        let Some(key) = self.keys.current() else { return String::new() };
        let form = self.form.load();
        let expires = now.plus(form.lifetime).seconds();
        let signature = Claims { tenant, file, variant: VARIANT, expires }.signed(key);
        format!("{}/gate/files/{file}?expires={expires}&key={}&signature={signature}", form.base, key.id())
    }

    /// Whether the query was signed for that file.
    ///
    /// # Errors
    /// [`LinkError`]; whether a URL has expired is told only of one that we made.
    pub fn verify(&self, row: &FileRow, query: &Query, now: WallMillis) -> Result<(), LinkError> {
        let field = |name| query.value(name).ok_or(LinkError::Invalid);
        let expires = decimal(field("expires")?).ok_or(LinkError::Invalid)?;
        let key = self.keys.find(field("key")?).ok_or(LinkError::Invalid)?;
        let claims = Claims { tenant: &row.owner.tenant, file: row.id, variant: VARIANT, expires };
        if !claims.verifies(key, field("signature")?) {
            return Err(LinkError::Invalid);
        }
        if now.seconds() < expires { Ok(()) } else { Err(LinkError::Expired) }
    }
}

/// A number as we write it: no sign, no leading zero.
fn decimal(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::super::signing_key::tests::keys;
    use super::*;
    use crate::owner::Owner;
    use crate::record::ledger::Directory;
    use comfygate_policy::Digest;

    const NOW: WallMillis = WallMillis(1_000_000);

    fn row() -> FileRow {
        FileRow {
            id: FileId::new(),
            owner: Owner { tenant: "a".parse().unwrap(), user: None, key: None, shared: false },
            job: None,
            content: Digest::of(b"x"),
            bytes: 1,
            directory: Directory::Output,
            subfolder: String::new(),
            filename: "a.png".into(),
            content_type: "image/png".into(),
            facts: None,
            created_at: NOW,
            used_at: None,
        }
    }

    fn query(url: &str) -> Query {
        Query::parse(url.split_once('?').unwrap().1).unwrap()
    }

    #[test]
    fn a_url_opens_its_file_until_the_second_it_expires() {
        let links =
            Links::new(keys(&["00000001"]), Some(&"https://gate.example".parse().unwrap()), Duration::from_secs(60));
        let row = row();
        let url = links.signed(&row.owner.tenant, row.id, NOW);
        assert!(url.starts_with(&format!("https://gate.example/gate/files/{}?expires=1060&", row.id)), "{url}");
        assert_eq!(links.verify(&row, &query(&url), WallMillis(1_059_999)), Ok(()));
        assert_eq!(links.verify(&row, &query(&url), WallMillis(1_060_000)), Err(LinkError::Expired));
    }

    #[test]
    fn a_url_for_one_file_or_tenant_opens_no_other() {
        let links = Links::new(keys(&["00000001"]), None, Duration::from_secs(60));
        let row = row();
        let url = links.signed(&row.owner.tenant, row.id, NOW);
        assert!(url.starts_with("/gate/files/"), "{url}");
        let other_file = FileRow { id: FileId::new(), ..row.clone() };
        let other_tenant = FileRow {
            owner: Owner { tenant: "b".parse().unwrap(), user: None, key: None, shared: false },
            ..row.clone()
        };
        for other in [other_file, other_tenant] {
            assert_eq!(links.verify(&other, &query(&url), NOW), Err(LinkError::Invalid));
        }
        for changed in [
            url.replace("expires=1060", "expires=9999"),
            url.replace("expires=1060", "expires=01060"),
            url.replace("key=0", "key=9"),
            url.replace("&signature", "&x"),
        ] {
            assert_eq!(links.verify(&row, &query(&changed), NOW), Err(LinkError::Invalid), "{changed}");
        }
    }

    #[test]
    fn urls_of_the_former_key_stay_good_after_a_rotation() {
        let row = row();
        let url = Links::new(keys(&["00000001"]), None, Duration::from_secs(60)).signed(&row.owner.tenant, row.id, NOW);
        let rotated = Links::new(keys(&["00000002", "00000001"]), None, Duration::from_secs(60));
        assert_eq!(rotated.verify(&row, &query(&url), NOW), Ok(()));
        let dropped = Links::new(keys(&["00000002"]), None, Duration::from_secs(60));
        assert_eq!(dropped.verify(&row, &query(&url), NOW), Err(LinkError::Invalid));
    }

    #[test]
    fn no_url_is_good_for_longer_than_a_week() {
        let links = Links::new(keys(&["00000001"]), None, Duration::from_secs(1 << 40));
        let row = row();
        assert!(links.signed(&row.owner.tenant, row.id, WallMillis(0)).contains("expires=604800&"));
    }
}
