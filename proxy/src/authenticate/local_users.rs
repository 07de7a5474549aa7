//! Login by name and password of a local user, and what the running gateway keeps in memory for it.

use super::AuthError;
use super::login_links::{FirstLinkFile, LoginLinks};
use super::passwords::{Checked, HashError, Passwords, Typed};
use crate::clock::WallMillis;
use crate::ids::UserId;
use crate::listen::AddrGroup;
use crate::record::ledger::users::{PasswordChange, UserChange, UserRow};
use crate::record::ledger::{Ledger, LedgerError};
use crate::tenants::AllTenants;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Why a name and a password let nobody in. The caller reads one text for all; these are for log and audit. A name that nobody has is not repeated: it may be a password in the wrong field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PasswordRefused {
    /// Nobody is called that.
    #[error("there is no such local user")]
    UnknownUser,
    /// Somebody is.
    #[error("wrong password of the user `{0}`")]
    WrongPassword(UserId),
    /// The password was right.
    #[error("the user `{0}` is disabled")]
    Disabled(UserId),
    /// It was too, but nobody of that tenant gets in. SECURITY: counted as a wrong one, or the absence of a wait would tell which passwords are right.
    #[error("the tenant of the user `{0}` is gone or disabled")]
    TenantClosed(UserId),
}

impl PasswordRefused {
    /// The user that there is.
    pub fn user(&self) -> Option<&UserId> {
        match self {
            Self::UnknownUser => None,
            Self::WrongPassword(user) | Self::Disabled(user) | Self::TenantClosed(user) => Some(user),
        }
    }
}

/// What a running gateway keeps for its local users.
#[derive(Debug, Default)]
pub struct LocalUsers {
    /// Hashes, a few at once.
    pub passwords: Passwords,
    /// One-time links.
    pub links: LoginLinks,
    any: AtomicBool,
    first_file: Mutex<Option<FirstLinkFile>>,
}

impl LocalUsers {
    /// Whether there is any: then the login page asks for a name and a password. Kept here, since every stranger asks for that page.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Looks again: after a start, and whenever one was made or removed.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn refresh<L: Ledger + ?Sized>(&self, ledger: &L) -> Result<(), LedgerError> {
        let any = ledger.user_count().await? > 0;
        self.any.store(any, Ordering::Relaxed);
        if any {
            // It is for whoever comes first.
            self.end_first();
        }
        Ok(())
    }

    /// Keeps the link for whoever comes first in a file of the state directory, until [`LocalUsers::end_first`]; gives its path.
    ///
    /// # Errors
    /// What the system said.
    pub fn keep_first(&self, state_dir: &Path, url: &str) -> io::Result<String> {
        let file = FirstLinkFile::write(state_dir, url)?;
        let path = file.path().display().to_string();
        *self.first_file.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        Ok(path)
    }

    /// Ends the link for whoever comes first, and takes its file away: somebody has come, or there is another way in.
    pub fn end_first(&self) {
        self.links.end_first();
        if let Some(file) = self.first_file.lock().unwrap_or_else(PoisonError::into_inner).take() {
            file.remove();
        }
    }
}

/// The local user of that name and password. Whatever is typed costs one hash: the time of a refusal tells neither whether there is such a user nor whether it is disabled.
///
/// # Errors
/// `Password`, `TenantClosed`; `Passwords` and `Unavailable`, after which nothing is known.
pub async fn by_password<L: Ledger + ?Sized>(
    name: &str,
    password: &Typed,
    (ledger, tenants, passwords): (&L, &AllTenants, &Passwords),
    from: Option<AddrGroup>,
    now: WallMillis,
) -> Result<UserRow, AuthError> {
    let known = match name.parse::<UserId>() {
        Ok(name) => match ledger.user(&name).await {
            Ok(row) => Some(row),
            Err(LedgerError::NotFound { .. }) => None,
            Err(error) => return Err(AuthError::Unavailable(error)),
        },
        Err(_) => None,
    };
    let stored = known.as_ref().map(|row| row.password.clone());
    let checked = passwords.check(password, stored, from).await.map_err(AuthError::Passwords)?;
    let row = known.ok_or(PasswordRefused::UnknownUser)?;
    let Checked::Right { renewed } = checked else {
        return Err(PasswordRefused::WrongPassword(row.name).into());
    };
    if row.disabled_at.is_some() {
        return Err(PasswordRefused::Disabled(row.name).into());
    }
    if tenants.tenant(&row.tenant).is_none_or(|tenant| tenant.disabled) {
        return Err(PasswordRefused::TenantClosed(row.name).into());
    }
    if let Some(hash) = renewed {
        let password = Some(PasswordChange::Rehash { version: row.password_version, hash });
        // The next login tries again.
        if let Err(error) = ledger.change_user(&row.name, UserChange { password, ..UserChange::default() }, now).await {
            tracing::warn!(user = %row.name, %error, "a password was not hashed anew");
        }
    }
    Ok(row)
}

impl From<HashError> for AuthError {
    fn from(error: HashError) -> Self {
        Self::Passwords(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authenticate::passwords::Password;
    use crate::record::ledger::redb::{RedbLedger, RedbOptions};
    use crate::record::ledger::users::{Users, suite};
    use crate::tenants::TenantRegistry;

    struct Stage {
        _dir: tempfile::TempDir,
        ledger: RedbLedger,
        tenants: AllTenants,
        passwords: Passwords,
    }

    impl Stage {
        async fn with_ann() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let ledger = RedbLedger::open(dir.path(), RedbOptions::default()).unwrap();
            let passwords = Passwords::default();
            let ann = "Ann".parse().unwrap();
            let password = Password::new(&Typed::new("a long enough one"), &ann).unwrap();
            let password = passwords.hash(password, None).await.unwrap();
            ledger.insert_user(UserRow { password, ..suite::row("Ann", "local", 1) }, 9).await.unwrap();
            Self { _dir: dir, ledger, tenants: AllTenants::of_the_file(TenantRegistry::built_in()), passwords }
        }

        async fn login(&self, name: &str, password: &str) -> Result<UserRow, AuthError> {
            let parts = (&self.ledger, &self.tenants, &self.passwords);
            by_password(name, &Typed::new(password), parts, None, WallMillis(9)).await
        }
    }

    #[tokio::test]
    async fn a_name_in_any_case_and_its_password_are_the_user() {
        let stage = Stage::with_ann().await;
        for name in ["Ann", "ann", "ANN"] {
            assert_eq!(stage.login(name, "a long enough one").await.unwrap().name.as_str(), "Ann");
        }
        assert!(stage.login("ann ", "a long enough one").await.is_err());
    }

    #[tokio::test]
    async fn every_login_costs_one_hash_whoever_it_is_for() {
        let stage = Stage::with_ann().await;
        let mut costs = Vec::new();
        let mut cost = async |name: &str, password: &str| {
            let before = stage.passwords.hashed();
            let error = stage.login(name, password).await.err();
            costs.push(stage.passwords.hashed() - before);
            error
        };
        assert!(cost("ann", "a long enough one").await.is_none());
        let wrong = cost("ann", "wrong").await;
        assert!(matches!(wrong, Some(AuthError::Password(PasswordRefused::WrongPassword(_)))), "{wrong:?}");
        for nobody in ["bob", "no user's name", ""] {
            let unknown = cost(nobody, "a long enough one").await;
            assert!(matches!(unknown, Some(AuthError::Password(PasswordRefused::UnknownUser))), "{unknown:?}");
        }
        let off = UserChange { disabled: Some(true), ..UserChange::default() };
        stage.ledger.change_user(&"ann".parse().unwrap(), off, WallMillis(2)).await.unwrap();
        let disabled = cost("ann", "a long enough one").await;
        assert!(matches!(disabled, Some(AuthError::Password(PasswordRefused::Disabled(_)))), "{disabled:?}");
        assert_eq!(costs, [1; 6]);
    }

    #[tokio::test]
    async fn a_user_of_no_tenant_in_force_is_not_let_in() {
        let stage = Stage::with_ann().await;
        let ann = stage.ledger.user(&"ann".parse().unwrap()).await.unwrap();
        let gone = UserRow { name: "bob".parse().unwrap(), tenant: "gone".parse().unwrap(), ..ann };
        stage.ledger.insert_user(gone, 9).await.unwrap();
        let refused = stage.login("bob", "a long enough one").await;
        assert!(matches!(refused, Err(AuthError::Password(PasswordRefused::TenantClosed(_)))), "{refused:?}");
    }

    #[tokio::test]
    async fn the_page_asks_for_passwords_while_there_is_anybody_who_has_one() {
        let stage = Stage::with_ann().await;
        let users = LocalUsers::default();
        assert!(!users.any());
        users.refresh(&stage.ledger).await.unwrap();
        assert!(users.any());
        stage.ledger.remove_user(&"ann".parse().unwrap(), WallMillis(3)).await.unwrap();
        users.refresh(&stage.ledger).await.unwrap();
        assert!(!users.any());
    }
}
