//! An engine that asks its host for each service, and returns the answer. It shows which services a server has.
//!
//! ```text
//! services/:service   update: asks for the service
//! ```

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use vault_plugin_sdk::framework::{Backend, Call, Field, FieldSpec, Handler, Path};
use vault_plugin_sdk::logical::{Answer, Error, Event, Map, Mount, Response, RotationJob};
use vault_plugin_sdk::{self as sdk, Plugin};

fn main() -> ExitCode {
    sdk::serve(Plugin::new("host-services", "0.1.0"), declaration().factory(Mount::clone))
}

const SERVICE: Field<String> = Field::string("service", "Name of the service.").required();
const TARGET: Field<String> = Field::string("target", "Id of an entity, or name of a password policy.").default("none");
const FIELDS: &[FieldSpec] = &[SERVICE.spec(), TARGET.spec()];

const HOUR: Duration = Duration::from_secs(3600);

fn declaration() -> Backend<Mount> {
    Backend::new("Asks the host for its services.").path(
        Path::new(r"services/(?P<service>\w+)", FIELDS)
            .help("Asks for a service.", "The answer has the reply of the host, or the error.")
            .write(Handler::new("Ask for a service.", ask)),
    )
}

async fn ask(mount: Arc<Mount>, call: Call) -> Answer {
    let (name, target) = (call.fields.get(&SERVICE).unwrap_or_default(), call.fields.get(&TARGET).unwrap_or_default());
    let (name, shown) = match service(&mount, &call.request.mount_point, &name, &target).await {
        Ok(told) => ("told", told),
        Err(Error::UnsupportedByHost(what)) => ("unsupported", json!(what)),
        Err(Error::Internal { message, cause }) => ("failed", json!(cause.map_or(message, |cause| cause.to_string()))),
        Err(error) => ("failed", json!(error.to_string())),
    };
    Ok(Some(Response::new(Map::from_iter([(name.to_owned(), shown)]))))
}

async fn service(mount: &Mount, mount_point: &str, service: &str, target: &str) -> Result<Value, Error> {
    let system = &mount.system;
    let data = Map::from_iter([("colour".to_owned(), json!("blue"))]);
    Ok(match service {
        "entity" => json!(system.entity(target).await?.map(|entity| {
            let aliases: Vec<_> = entity.aliases.iter().map(|alias| (&alias.name, &alias.mount_type)).collect();
            json!({"name": entity.name, "metadata": entity.metadata, "aliases": aliases})
        })),
        "groups" => {
            let groups = system.groups_of_entity(target).await?;
            json!(groups.into_iter().map(|group| (group.name, group.metadata)).collect::<Vec<_>>())
        }
        "version" => json!(system.host_version().await?.to_string()),
        "cluster_id" => json!(system.cluster_id().await?),
        "mlock" => json!(system.mlock_enabled().await?),
        "local_mount" => json!(system.local_mount().await?),
        "tainted" => json!(system.tainted().await?),
        "caching_disabled" => json!(system.caching_disabled().await?),
        "writable" => json!(system.is_writable().await?),
        "password" => json!(system.generate_password(target).await?),
        "wrapping" => json!(system.wrap_response(&data, HOUR, false).await?.token),
        "identity_token" => json!(!system.identity_token("service", HOUR).await?.token.is_empty()),
        "event" => {
            let event = Event {
                id: "9b1f6ca7-2f7f-4f5a-8f3d-000000000001".to_owned(),
                metadata: data,
                entity_ids: vec![mount_point.to_owned()],
                note: "asked".to_owned(),
            };
            json!(system.send_event("host-services/asked", &event).await?)
        }
        "observation" => json!(system.record_observation("host-services/asked", &data).await?),
        "rotation_job" => {
            let job = RotationJob {
                name: "rotate".to_owned(),
                mount_point: mount_point.to_owned(),
                path: "services/version".to_owned(),
                period: HOUR,
                ..RotationJob::default()
            };
            json!(!system.register_rotation_job(&job).await?.is_empty())
        }
        "rotation_end" => json!(system.deregister_rotation_job(mount_point, "services/version").await?),
        "transaction" => match mount.storage.begin().await? {
            Some(transaction) => json!(transaction.rollback().await?),
            None => json!("no transactions"),
        },
        "read_transaction" => match mount.storage.begin_read_only().await? {
            Some(transaction) => json!(transaction.rollback().await?),
            None => json!("no transactions"),
        },
        other => return Err(Error::invalid(format!("no service {other:?}"))),
    })
}
