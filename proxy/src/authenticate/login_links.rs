//! One-time links: by one of them the first user of a new gateway is made, or somebody chooses a password.
//!
//! A token has 256 random bits and is kept as a hash, in memory only: a restart ends every link, a hand-over to the next process too. Looking at one uses nothing up, since mail programs and chats
//! fetch links before a person does; only [`LoginLinks::take`] does, and of two who take it at once one gets it.

use crate::clock::Clock;
use crate::config::{Config, ListenKind};
use crate::ids::{TenantId, UserId};
use crate::owner::Scopes;
use crate::record::durable::FILE_MODE;
use comfygate_policy::Digest;
use ring::rand::SecureRandom;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq as _;

/// How long a link is good.
pub const LIFETIME: Duration = Duration::from_secs(30 * 60);
/// Links at once: an operator makes them by hand.
const LINKS_MAX: usize = 1000;
const TOKEN_BYTES: usize = 32;

/// Whom a link lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkFor {
    /// Whoever comes first, as a user with a name of its choice; good only while there is no user.
    First {
        /// Whose.
        tenant: TenantId,
    },
    /// One user, who chooses a password: made by it, or given another.
    User {
        /// The login name.
        name: UserId,
        /// Whose; a user of that name in another tenant is not meant.
        tenant: TenantId,
        /// What it may do where the link makes it.
        scopes: Scopes,
    },
}

impl LinkFor {
    /// Whose user it is for.
    pub fn tenant(&self) -> &TenantId {
        match self {
            Self::First { tenant } | Self::User { tenant, .. } => tenant,
        }
    }

    /// Whether both are for whoever comes first, or for one user. Names are one in whatever case.
    fn is_for_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::First { .. }, Self::First { .. }) => true,
            (Self::User { name, .. }, Self::User { name: other, .. }) => {
                name.as_str().eq_ignore_ascii_case(other.as_str())
            }
            (Self::First { .. }, Self::User { .. }) | (Self::User { .. }, Self::First { .. }) => false,
        }
    }
}

/// A link's secret. `Debug` shows nothing of it; [`LinkToken::reveal`] is for the one URL.
#[derive(Clone)]
pub struct LinkToken(String);

impl LinkToken {
    /// The text, for the URL.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for LinkToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkToken(redacted)")
    }
}

/// Why there is no link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// As many are good as may be.
    #[error("{LINKS_MAX} login links are open, which is all that may be: wait until some are over")]
    Full,
    /// None to draw it from.
    #[error("the system gave no random bytes")]
    Random,
}

/// The link as it is given to a person: below the public URL. Without one, on the first listener that answers: by its address, or as `localhost` where it listens on every address. A path
/// alone where there are only socket files: then whoever stands in front knows the address.
pub fn url(config: &Config, token: &LinkToken) -> String {
    let base = config.public_url.as_ref().map(|url| url.as_str().to_owned());
    let base = base.or_else(|| listener_url(config)).unwrap_or_default();
    format!("{base}/gate/first?token={}", token.reveal())
}

fn listener_url(config: &Config) -> Option<String> {
    let of = |scheme: &str, kind: fn(&ListenKind) -> bool| {
        let mut addresses = config.listen.iter().filter(|listener| kind(&listener.kind));
        let address = addresses.find_map(|listener| listener.address.tcp())?;
        let any = address.ip().is_unspecified();
        Some(if any { format!("{scheme}://localhost:{}", address.port()) } else { format!("{scheme}://{address}") })
    };
    // A cookie is taken over HTTPS, and over plain HTTP only by a browser on this very machine.
    let tls = of("https", |kind| matches!(kind, ListenKind::Tls(_)));
    tls.or_else(|| of("http", |kind| *kind == ListenKind::Plain))
}

/// A link that was taken: whoever could not use it puts it back.
#[derive(Debug)]
pub struct TakenLink {
    hash: Digest,
    wanted: LinkFor,
}

impl TakenLink {
    /// Whom it lets in.
    pub fn wanted(&self) -> &LinkFor {
        &self.wanted
    }
}

#[derive(Debug)]
struct Link {
    hash: Digest,
    wanted: LinkFor,
    ends: Instant,
    /// Somebody is using it: whatever ends it meanwhile ends it.
    taken: bool,
}

/// The links that are good.
#[derive(Debug, Default)]
pub struct LoginLinks(Mutex<Vec<Link>>);

impl LoginLinks {
    /// Makes a link. A former one for the same user, whatever it would have given, is over: whoever asks again has lost it, or asked wrongly.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn make(&self, wanted: LinkFor, random: &dyn SecureRandom, clock: &Clock) -> Result<LinkToken, LinkError> {
        let mut bytes = [0; TOKEN_BYTES];
        random.fill(&mut bytes).map_err(|_| LinkError::Random)?;
        let token = LinkToken(bytes.iter().map(|byte| format!("{byte:02x}")).collect());
        let now = clock.monotonic();
        let mut links = self.lock();
        links.retain(|link| link.ends > now && !link.wanted.is_for_the_same(&wanted));
        if links.len() >= LINKS_MAX {
            return Err(LinkError::Full);
        }
        links.push(Link { hash: Digest::of(token.0.as_bytes()), wanted, ends: now + LIFETIME, taken: false });
        Ok(token)
    }

    /// Whom a link lets in; nothing is used up.
    pub fn look(&self, token: &str, clock: &Clock) -> Option<LinkFor> {
        let links = self.lock();
        let place = place(&links, token, clock)?;
        links.get(place).map(|link| link.wanted.clone())
    }

    /// Takes a link: nobody else gets it from now on.
    pub fn take(&self, token: &str, clock: &Clock) -> Option<TakenLink> {
        let mut links = self.lock();
        let place = place(&links, token, clock)?;
        let link = links.get_mut(place)?;
        link.taken = true;
        Some(TakenLink { hash: link.hash, wanted: link.wanted.clone() })
    }

    /// A link was used: it is over.
    pub fn used(&self, taken: &TakenLink) {
        self.lock().retain(|link| link.hash != taken.hash);
    }

    /// A link could not be used: it is good again, unless it has ended meanwhile.
    pub fn put_back(&self, taken: &TakenLink) {
        self.lock().iter_mut().filter(|link| link.hash == taken.hash).for_each(|link| link.taken = false);
    }

    /// Whether there is one for whoever comes first.
    pub fn has_first(&self) -> bool {
        self.lock().iter().any(|link| matches!(link.wanted, LinkFor::First { .. }))
    }

    /// Ends the links for whoever comes first: somebody has come.
    pub fn end_first(&self) {
        self.lock().retain(|link| !matches!(link.wanted, LinkFor::First { .. }));
    }

    /// Ends the links of a user that is removed: an old one must not bring it back.
    pub fn end_of(&self, user: &UserId) {
        let same = |name: &UserId| name.as_str().eq_ignore_ascii_case(user.as_str());
        self.lock().retain(|link| !matches!(&link.wanted, LinkFor::User { name, .. } if same(name)));
    }

    /// The same, and says how many were good.
    pub fn end_good_of(&self, user: &UserId, clock: &Clock) -> usize {
        let now = clock.monotonic();
        let same = |name: &UserId| name.as_str().eq_ignore_ascii_case(user.as_str());
        let mut links = self.lock();
        let good = |link: &&Link| link.ends > now && matches!(&link.wanted, LinkFor::User { name, .. } if same(name));
        let ended = links.iter().filter(good).count();
        links.retain(|link| !matches!(&link.wanted, LinkFor::User { name, .. } if same(name)));
        ended
    }

    /// Ends the links of a tenant that is erased.
    pub fn end_of_tenant(&self, tenant: &TenantId) {
        self.lock().retain(|link| link.wanted.tenant() != tenant);
    }

    /// Every change is one statement: a panic elsewhere leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, Vec<Link>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The file in the state directory that a link for whoever comes first is in.
pub const FIRST_LINK: &str = "first-link";
/// And the same before it is whole.
const FIRST_LINK_TMP: &str = "first-link.tmp";

/// A link in a file, for a gateway whose standard error is no person's terminal.
#[derive(Debug)]
pub struct FirstLinkFile {
    path: PathBuf,
    /// What was written, as a hash.
    written: Digest,
}

impl FirstLinkFile {
    /// Writes it, for our own user alone.
    ///
    /// # Errors
    /// What the system said.
    pub fn write(state_dir: &Path, url: &str) -> io::Result<Self> {
        let (path, line) = (state_dir.join(FIRST_LINK), format!("{url}\n"));
        let beside = state_dir.join(FIRST_LINK_TMP);
        removed(&beside);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&beside)?;
        file.write_all(line.as_bytes()).and_then(|()| std::fs::rename(&beside, &path))?;
        Ok(Self { path, written: Digest::of(line.as_bytes()) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes it away, unless another process has put its own in the place since.
    pub fn remove(self) {
        if std::fs::read(&self.path).is_ok_and(|found| Digest::of(&found) == self.written) {
            removed(&self.path);
        }
    }

    /// Takes away what a process left that was killed.
    pub fn sweep(state_dir: &Path) {
        [FIRST_LINK, FIRST_LINK_TMP].iter().for_each(|name| removed(&state_dir.join(name)));
    }
}

/// What stays by a fault of the disk is a link that is over.
fn removed(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "the file of a former link is left");
        }
        _ => {}
    }
}

/// SECURITY: every hash is compared whole, so that the time tells nothing of which link is meant.
fn place(links: &[Link], token: &str, clock: &Clock) -> Option<usize> {
    let (hash, now) = (Digest::of(token.as_bytes()), clock.monotonic());
    let mut found = None;
    for (place, link) in links.iter().enumerate() {
        if bool::from(hash.as_bytes().ct_eq(link.hash.as_bytes())) && link.ends > now && !link.taken {
            found = Some(place);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallMillis;
    use ring::rand::SystemRandom;

    fn first() -> LinkFor {
        LinkFor::First { tenant: "a".parse().unwrap() }
    }

    fn of(name: &str) -> LinkFor {
        LinkFor::User { name: name.parse().unwrap(), tenant: "a".parse().unwrap(), scopes: Scopes::of_a_client() }
    }

    fn made(links: &LoginLinks, wanted: LinkFor, clock: &Clock) -> String {
        links.make(wanted, &SystemRandom::new(), clock).unwrap().reveal().to_owned()
    }

    fn clock() -> Clock {
        Clock::turned_by_hand(WallMillis(1))
    }

    #[test]
    fn a_link_is_looked_at_as_often_as_one_likes_and_taken_once() {
        let (links, clock) = (LoginLinks::default(), clock());
        let token = made(&links, first(), &clock);
        assert_eq!(token.len(), 64);
        for _ in 0..3 {
            assert_eq!(links.look(&token, &clock), Some(first()));
        }
        assert!(links.look(&token[..63], &clock).is_none() && links.look("", &clock).is_none());
        let taken = links.take(&token, &clock).unwrap();
        assert_eq!(taken.wanted(), &first());
        assert!(links.take(&token, &clock).is_none() && links.look(&token, &clock).is_none());
        links.put_back(&taken);
        let taken = links.take(&token, &clock).unwrap();
        links.used(&taken);
        links.put_back(&taken);
        assert!(links.take(&token, &clock).is_none(), "it was used");
    }

    #[test]
    fn a_link_that_ends_while_it_is_used_is_not_put_back() {
        let clock = clock();
        let ends: [fn(&LoginLinks, &Clock); 3] = [
            |links, _| links.end_of(&"ann".parse().unwrap()),
            |links, clock| drop(made(links, of("ann"), clock)),
            |links, _| links.end_of_tenant(of("ann").tenant()),
        ];
        for end in ends {
            let links = LoginLinks::default();
            let token = made(&links, of("ann"), &clock);
            let taken = links.take(&token, &clock).unwrap();
            end(&links, &clock);
            links.put_back(&taken);
            assert!(links.look(&token, &clock).is_none());
        }
    }

    #[test]
    fn a_link_is_good_for_30_minutes_also_when_it_was_put_back() {
        let (links, clock) = (LoginLinks::default(), clock());
        let token = made(&links, of("ann"), &clock);
        clock.turn(LIFETIME - Duration::from_millis(1));
        let taken = links.take(&token, &clock).unwrap();
        links.put_back(&taken);
        assert!(links.look(&token, &clock).is_some());
        clock.turn(Duration::from_millis(1));
        assert!(links.look(&token, &clock).is_none() && links.take(&token, &clock).is_none());
    }

    #[test]
    fn an_erased_tenants_links_end_and_others_stay() {
        let (links, clock) = (LoginLinks::default(), clock());
        let of_another =
            LinkFor::User { name: "bob".parse().unwrap(), tenant: "b".parse().unwrap(), scopes: Scopes::default() };
        let (ann, bob) = (made(&links, of("ann"), &clock), made(&links, of_another, &clock));
        links.end_of_tenant(&"a".parse().unwrap());
        assert!(links.look(&ann, &clock).is_none() && links.look(&bob, &clock).is_some());
    }

    #[test]
    fn a_second_link_for_the_same_ends_the_first_and_no_other() {
        let (links, clock) = (LoginLinks::default(), clock());
        let (old, other) = (made(&links, of("ann"), &clock), made(&links, of("bob"), &clock));
        let new = made(&links, of("ann"), &clock);
        assert!(links.look(&old, &clock).is_none());
        assert!(links.look(&new, &clock).is_some() && links.look(&other, &clock).is_some());
        // Whatever it gives, and however the name is written.
        let more =
            LinkFor::User { name: "ANN".parse().unwrap(), tenant: "b".parse().unwrap(), scopes: Scopes::default() };
        let more = made(&links, more, &clock);
        assert!(links.look(&new, &clock).is_none());
        let new = made(&links, of("ann"), &clock);
        assert!(links.look(&more, &clock).is_none());
        let first = made(&links, first(), &clock);
        links.end_first();
        assert!(links.look(&first, &clock).is_none() && links.look(&new, &clock).is_some());
        links.end_of(&"ANN".parse().unwrap());
        assert!(links.look(&new, &clock).is_none() && links.look(&other, &clock).is_some());
    }

    #[test]
    fn the_good_links_of_a_name_are_ended_and_counted_once() {
        let (links, clock) = (LoginLinks::default(), clock());
        let (ann, bob) = (made(&links, of("ann"), &clock), made(&links, of("bob"), &clock));
        let end = |name: &str| links.end_good_of(&name.parse().unwrap(), &clock);
        assert_eq!((end("nobody"), end("ANN"), end("ann")), (0, 1, 0));
        assert!(links.look(&ann, &clock).is_none() && links.look(&bob, &clock).is_some());
        clock.turn(LIFETIME);
        assert_eq!(end("bob"), 0, "it was over");
    }

    #[test]
    fn a_link_leads_to_the_public_url_or_to_the_first_listener_that_answers() {
        let (links, clock) = (LoginLinks::default(), clock());
        let token = links.make(first(), &SystemRandom::new(), &clock).unwrap();
        let led = |lines: &str| {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("gateway.toml");
            std::fs::write(&file, lines).unwrap();
            let config = Config::load(Some(&file)).unwrap().config;
            url(&config, &token).strip_suffix(&format!("/gate/first?token={}", token.reveal())).unwrap().to_owned()
        };
        let tls = "[[listen]]\naddress = \"0.0.0.0:9443\"\n";
        assert_eq!(led(&format!("public_url = \"https://a.example/comfy\"\n{tls}")), "https://a.example/comfy");
        assert_eq!(led(tls), "https://localhost:9443");
        assert_eq!(led("[[listen]]\naddress = \"[::1]:9443\"\n"), "https://[::1]:9443");
        let plain = "[[listen]]\naddress = \"127.0.0.1:8080\"\nplain = true\n";
        assert_eq!(led(plain), "http://127.0.0.1:8080");
        assert_eq!(led(&format!("{plain}{tls}")), "https://localhost:9443");
    }

    #[test]
    fn the_file_of_a_link_is_our_own_users_and_nobody_removes_anothers() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let first = FirstLinkFile::write(dir.path(), "https://a.example/gate/first?token=1").unwrap();
        let path = first.path().to_owned();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "https://a.example/gate/first?token=1\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let second = FirstLinkFile::write(dir.path(), "https://a.example/gate/first?token=2").unwrap();
        first.remove();
        assert!(path.is_file(), "the successor's stays");
        second.remove();
        assert!(!path.exists());
        FirstLinkFile::write(dir.path(), "https://a.example/gate/first?token=3").unwrap();
        FirstLinkFile::sweep(dir.path());
        FirstLinkFile::sweep(dir.path());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left beside it either");
    }

    #[test]
    fn as_many_links_are_open_as_may_be_and_those_that_are_over_make_room() {
        let (links, clock) = (LoginLinks::default(), clock());
        for number in 0..LINKS_MAX {
            made(&links, of(&format!("u{number}")), &clock);
        }
        assert_eq!(links.make(of("one-more"), &SystemRandom::new(), &clock).unwrap_err(), LinkError::Full);
        made(&links, of("u7"), &clock);
        clock.turn(LIFETIME);
        made(&links, of("one-more"), &clock);
    }
}
