//! The stored static roles.
//!
//! When they need work is read once, by the first tick of a process that is active, and again after another node has changed a
//! static role.

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use vault_plugin_sdk::logical::StorageExt as _;

use super::base::{Store, log_skipped};
use super::keys::leaves;
use super::rotations::{Due, Known, STATIC_ROLES, State, StaticRole};
use crate::error::{Error, readable};
use crate::names::{OrgId, RoleName, from_segment, segment};

/// How many static roles are read at the same time.
const CONCURRENT: usize = 32;

impl Store {
    /// Returns a static role.
    pub(crate) async fn static_role(&self, org: &OrgId, name: &RoleName) -> Result<Option<StaticRole>, Error> {
        Ok(self.storage.get_json(&static_role_key(org, name)).await?)
    }

    /// Writes a static role. The caller holds its lock.
    pub(crate) async fn put_static_role(&self, role: &StaticRole) -> Result<(), Error> {
        let written = self.storage.put_json(&static_role_key(&role.org_id, &role.name), role).await;
        match written {
            Ok(()) => {
                self.schedule.set(&role.org_id, &role.name, Some(role.into()));
                self.look_at_current_token(role).await;
            }
            // The write may have taken effect, or take effect later.
            Err(_) => self.schedule.forget(),
        }
        Ok(written?)
    }

    /// Somebody may have deleted the token before the schedule knew that it is the current one.
    async fn look_at_current_token(&self, role: &StaticRole) {
        let Some(current) = role.current.as_ref().filter(|_| !role.is_deleted) else { return };
        match self.has_current_token(role).await {
            Ok(true) => {}
            Ok(false) => self.schedule.note_deleted(&role.org_id, &current.client_id),
            Err(_) => self.schedule.forget(),
        }
    }

    /// Deletes a static role, whose tokens are deleted. The caller holds its lock.
    pub(crate) async fn delete_static_role(&self, org: &OrgId, name: &RoleName) -> Result<(), Error> {
        self.storage.delete(&static_role_key(org, name)).await?;
        self.schedule.set(org, name, None);
        Ok(())
    }

    /// Deletes the static roles of an org, whose config is being deleted. Their tokens stay in the inventory.
    pub(crate) async fn delete_static_roles_of(&self, org: &OrgId) -> Result<(), Error> {
        for name in self.static_roles_of(org).await? {
            self.delete_static_role(org, &name).await?;
        }
        Ok(())
    }

    /// Returns the names of the static roles of an org.
    pub(crate) async fn static_roles_of(&self, org: &OrgId) -> Result<Vec<RoleName>, Error> {
        let names = self.storage.list(&static_roles_folder(org)).await?;
        Ok(leaves(names).map(|name| RoleName::stored(from_segment(&name))).collect())
    }

    /// Returns the static roles of an org, and the keys of those that cannot be read.
    pub(crate) async fn all_static_roles_of(&self, org: &OrgId) -> Result<(Vec<StaticRole>, Vec<String>), Error> {
        let read = |name: RoleName| async move {
            let (role, reason) = readable(self.static_role(org, &name).await)?;
            reason.iter().for_each(log_skipped);
            Ok::<_, Error>((role, reason.map(|_| static_role_key(org, &name))))
        };
        let names = self.static_roles_of(org).await?;
        let found: Vec<_> = stream::iter(names).map(read).buffered(CONCURRENT).try_collect().await?;
        let (roles, unread): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        Ok((roles.into_iter().flatten().collect(), unread.into_iter().flatten().collect()))
    }

    /// Reads when the static roles need work, unless that is known.
    pub(crate) async fn load_schedule(&self) -> Result<(), Error> {
        loop {
            let changes = match &*self.schedule.lock() {
                State { known: Some(_), .. } => return Ok(()),
                State { changes, .. } => *changes,
            };
            if self.schedule.learn(self.read_schedule().await?, changes) {
                return Ok(());
            }
        }
    }

    /// Whether the current token is stored. If not, somebody has deleted it, and an earlier process could not replace it.
    pub(crate) async fn has_current_token(&self, role: &StaticRole) -> Result<bool, Error> {
        let Some(current) = &role.current else { return Ok(false) };
        self.has_record(&role.org_id, &current.client_id).await
    }

    async fn read_schedule(&self) -> Result<Known, Error> {
        let mut known = Known::default();
        for folder in self.storage.list(STATIC_ROLES).await? {
            let Some(org) = folder.strip_suffix('/') else { continue };
            let (roles, _) = self.all_static_roles_of(&OrgId::stored(from_segment(org))).await?;
            let read = |role: StaticRole| async move {
                let mut due = Due::from(&role);
                if !self.has_current_token(&role).await? {
                    due.time = Timestamp::MIN;
                }
                Ok::<_, Error>(((role.org_id, role.name), due))
            };
            let read: Vec<_> = stream::iter(roles).map(read).buffered(CONCURRENT).try_collect().await?;
            read.into_iter().for_each(|(key, due)| known.set(key, Some(due)));
        }
        Ok(known)
    }
}

pub(crate) fn static_role_key(org: &OrgId, name: &RoleName) -> String {
    format!("{}{}", static_roles_folder(org), segment(name.as_str()))
}

fn static_roles_folder(org: &OrgId) -> String {
    format!("{STATIC_ROLES}{}/", segment(org.as_str()))
}

#[cfg(test)]
mod tests {
    use vault_plugin_sdk::testing::{HostFault, mount};

    use super::*;
    use crate::names::ClientId;
    use crate::store::CurrentToken;

    /// The token of a rotation is stored before the schedule knows that it is the current one.
    #[tokio::test]
    async fn a_static_role_whose_token_is_gone_when_it_is_written_is_due() {
        let (mount, storage, _) = mount();
        let store = Store::new(&mount);
        store.load_schedule().await.unwrap();
        let current =
            CurrentToken { client_id: ClientId::stored("client"), since: Timestamp::UNIX_EPOCH, until: Timestamp::MAX };
        let role = StaticRole::new(OrgId::stored("org"), RoleName::stored("ci"));
        let role = StaticRole { current: Some(current), ..role };
        store.put_static_role(&role).await.unwrap();
        assert_eq!(store.schedule.due().len(), 1);
        // If that cannot be read, all static roles are read again.
        storage.inject(HostFault::At(2));
        store.put_static_role(&role).await.unwrap();
        assert!(store.schedule.due().is_empty());
        store.load_schedule().await.unwrap();
        assert_eq!(store.schedule.due().len(), 1);
    }
}
