//! Signed URLs: `/gate/files/<file id>?expires=<unix seconds>&key=<key id>&signature=<base64url>`.
//!
//! The URL is the credential: it needs no other, and opens one file until it expires. The tenant is signed but not shown.

use super::signature::{Claim, LIFETIME_MAX, SignatureError, Signer, Variant};
use crate::clock::WallMillis;
use crate::config::PublicUrl;
use crate::ids::FileId;
use crate::owner::Owner;
use crate::record::ledger::FileRow;
use crate::route::Query;
use std::time::Duration;

/// Makes and checks the URLs of files.
#[derive(Debug, Clone)]
pub struct Links {
    signer: Signer,
    public_url: Option<PublicUrl>,
    lifetime: Duration,
}

impl Links {
    /// URLs live for `lifetime`, cut to [`LIFETIME_MAX`]. They are absolute when there is a public URL, else they begin with `/`.
    pub fn new(signer: Signer, public_url: Option<PublicUrl>, lifetime: Duration) -> Self {
        Self { signer, public_url, lifetime: lifetime.min(LIFETIME_MAX) }
    }

    /// A URL of one of the owner's files, good from `now` for the configured time.
    pub fn signed(&self, owner: &Owner, file: FileId, now: WallMillis) -> String {
        let expires = now.plus(self.lifetime).seconds();
        let claim = Claim { tenant: &owner.tenant, file, variant: Variant::Original, expires };
        let (key, signature) = self.signer.sign(&claim);
        let base = self.public_url.as_ref().map_or("", PublicUrl::as_str);
        format!("{base}/gate/files/{file}?expires={expires}&key={key}&signature={signature}")
    }

    /// Whether the query signs that file, now.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn verify(&self, row: &FileRow, query: &Query, now: WallMillis) -> Result<(), SignatureError> {
        let field = |key| query.value(key).ok_or(SignatureError::Malformed);
        let expires = canonical_number(field("expires")?).ok_or(SignatureError::Malformed)?;
        let claim = Claim { tenant: &row.owner.tenant, file: row.id, variant: Variant::Original, expires };
        self.signer.verify(&claim, field("key")?, field("signature")?, now)
    }
}

/// Digits as we write them: no sign, no leading zero, so that one URL has one spelling.
fn canonical_number(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::state::testing::{file_row, owner};
    use crate::deliver::views::signature::SigningKey;

    const NOW: WallMillis = WallMillis(1_000_000_999);

    fn links(public_url: Option<&str>, lifetime: Duration) -> Links {
        let key = SigningKey::new("k1", &[7; 32]).unwrap();
        Links::new(Signer::new(key, Vec::new()), public_url.map(|url| url.parse().unwrap()), lifetime)
    }

    fn query(url: &str) -> Query {
        Query::parse(url.split_once('?').unwrap().1).unwrap()
    }

    #[test]
    fn a_url_opens_its_file_until_it_expires() {
        let links = links(None, Duration::from_secs(60));
        let row = file_row("a.png");
        let url = links.signed(&row.owner, row.id, NOW);
        assert!(url.starts_with(&format!("/gate/files/{}?expires=1000060&key=k1&signature=", row.id)), "{url}");
        assert_eq!(links.verify(&row, &query(&url), NOW), Ok(()));
        assert_eq!(links.verify(&row, &query(&url), WallMillis(1_000_059_999)), Ok(()));
        assert_eq!(links.verify(&row, &query(&url), WallMillis(1_000_060_000)), Err(SignatureError::Expired));
    }

    #[test]
    fn a_url_opens_no_other_file_and_none_of_another_tenant() {
        let links = links(None, Duration::from_secs(60));
        let row = file_row("a.png");
        let url = links.signed(&row.owner, row.id, NOW);
        assert_eq!(links.verify(&file_row("a.png"), &query(&url), NOW), Err(SignatureError::Wrong));
        let foreign = FileRow { owner: owner("bravo"), ..row };
        assert_eq!(links.verify(&foreign, &query(&url), NOW), Err(SignatureError::Wrong));
    }

    #[test]
    fn other_spellings_and_missing_fields_are_refused() {
        let links = links(None, Duration::from_secs(60));
        let row = file_row("a.png");
        let url = links.signed(&row.owner, row.id, NOW);
        for (from, to) in [("expires=", "expires=%2B"), ("expires=", "expires=0"), ("expires=", "x="), ("&key=", "&k="), ("&signature=", "&s=")] {
            let changed = url.replace(from, to);
            assert_ne!(changed, url);
            assert_eq!(links.verify(&row, &query(&changed), NOW), Err(SignatureError::Malformed), "{changed}");
        }
        let later = url.replace("expires=1000060", "expires=1000061");
        assert_eq!(links.verify(&row, &query(&later), NOW), Err(SignatureError::Wrong));
    }

    #[test]
    fn urls_are_absolute_with_a_public_url_and_never_live_longer_than_a_week() {
        let links = links(Some("https://images.example.com"), Duration::from_secs(u64::from(u32::MAX)));
        let row = file_row("a.png");
        let url = links.signed(&row.owner, row.id, NOW);
        assert!(url.starts_with("https://images.example.com/gate/files/"), "{url}");
        assert_eq!(links.verify(&row, &query(&url), NOW), Ok(()));
    }
}
