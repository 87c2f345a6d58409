//! One file per noun. Each command is: convert, call, print.

mod channel;
mod doctor;
mod export;
mod image;
mod node;
mod pool;
mod pool_repair;
mod pool_space;
mod snapshot;
mod store;
mod volume;

mod decouple;
mod group;

use std::collections::HashMap;
use std::future::Future;

use clap::CommandFactory;
use goldleaf_proto::v1 as api;
use tonic::{Code, Response, Status, Streaming};

use crate::args::{Args, Command, Global, Removal, Selection, SetLabels, Update};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{self, Printable};

/// Runs one command.
///
/// # Errors
///
/// [`Failure`], which a person can read.
pub async fn run(args: Args) -> Result<(), Failure> {
    if let Command::Completion { shell } = &args.command {
        let mut script = Vec::new();
        clap_complete::generate(*shell, &mut Args::command(), "goldleaf", &mut script);
        return output::print(&String::from_utf8_lossy(&script));
    }
    let call = Call {
        client: Client::connect(&args.global).await?,
        global: args.global,
    };
    match args.command {
        Command::Pool(command) => pool::run(&call, command).await,
        Command::Image(command) => image::run(&call, command).await,
        Command::Volume(command) => volume::run(&call, command).await,
        Command::Snapshot(command) => snapshot::run(&call, command).await,
        Command::Group(command) => group::run(&call, command).await,
        Command::Node(command) => node::run(&call, command).await,
        Command::Store(command) => store::run(&call, command).await,
        Command::Doctor(command) => doctor::run(&call, command).await,
        Command::Completion { .. } => Ok(()),
    }
}

/// A connection and what all commands share.
pub struct Call {
    client: Client,
    global: Global,
}

impl Call {
    /// Waits for an answer, no longer than the person wants to.
    async fn answer<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(self.global.timeout, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(self.client.refused(status)),
            Err(_) => Err(Failure::TimedOut(self.global.timeout)),
        }
    }

    /// Waits for one thing and prints it.
    async fn show<T: Printable>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<(), Failure> {
        let item = self.answer(call).await?;
        output::one(self.global.output, &item)
    }

    /// Waits for a deletion and says so. What is gone already is as good as deleted, but a name that
    /// was misspelt is gone already too: `look` says whether there was anything.
    async fn gone<T>(
        &self,
        removal: Removal,
        look: impl AsyncFnOnce(api::GetRequest) -> Result<Response<T>, Status>,
        call: impl AsyncFnOnce(api::DeleteRequest) -> Result<Response<api::DeleteResponse>, Status>,
    ) -> Result<(), Failure> {
        let target = removal.target.clone();
        let looked = tokio::time::timeout(self.global.timeout, look(get(target.clone()))).await;
        self.answer(call(delete(removal))).await?;
        output::nothing(self.global.output)?;
        match looked {
            Ok(Err(status)) if status.code() == Code::NotFound => {
                eprintln!("{target}: there is none, nothing was deleted");
            }
            Ok(_) | Err(_) => eprintln!("{target}: deleted"),
        }
        Ok(())
    }

    /// Prints what a watch says until it ends.
    async fn follow<E, T: Printable>(
        &self,
        call: impl Future<Output = Result<Response<Streaming<E>>, Status>>,
        parts: impl Fn(E) -> (i32, Option<T>),
    ) -> Result<(), Failure> {
        let mut events = self.answer(call).await?;
        while let Some(event) = events.message().await.map_err(|e| self.client.refused(e))? {
            if let (kind, Some(item)) = parts(event) {
                output::event(self.global.output, kind, &item)?;
            }
        }
        Err(Failure::WatchEnded)
    }
}

fn get(target: String) -> api::GetRequest {
    api::GetRequest {
        target,
        usage: false,
    }
}

fn counted(target: String) -> api::GetRequest {
    api::GetRequest {
        target,
        usage: true,
    }
}

fn delete(removal: Removal) -> api::DeleteRequest {
    api::DeleteRequest {
        target: removal.target,
        expected_revision: removal.if_revision,
        wait: removal.waiting.wait,
    }
}

fn update(wanted: Update) -> Result<api::UpdateRequest, Failure> {
    let deletion_protection = match (wanted.protect, wanted.unprotect) {
        (false, false) => None,
        (protect, _) => Some(protect),
    };
    Ok(api::UpdateRequest {
        target: wanted.target,
        set_labels: distinct(wanted.labels)?,
        remove_labels: wanted.unlabel,
        deletion_protection,
        expected_revision: wanted.if_revision,
    })
}

fn filter(selection: Selection) -> Result<api::Filter, Failure> {
    Ok(api::Filter {
        labels: distinct(selection.labels)?,
    })
}

fn watch(selection: Selection) -> Result<api::WatchRequest, Failure> {
    Ok(api::WatchRequest {
        resume_token: String::new(),
        filter: Some(filter(selection)?),
    })
}

fn labels(set: SetLabels) -> Result<HashMap<String, String>, Failure> {
    distinct(set.labels)
}

/// Labels as a map; one that is given twice is a mistake, of which no half is silently taken.
fn distinct(pairs: Vec<(String, String)>) -> Result<HashMap<String, String>, Failure> {
    let mut map = HashMap::new();
    for (key, value) in pairs {
        if map.insert(key.clone(), value).is_some() {
            return Err(Failure::LabelTwice(key));
        }
    }
    Ok(map)
}

/// Every page of a list.
async fn all<T, F>(
    selection: Selection,
    mut page: impl FnMut(api::ListRequest) -> F,
) -> Result<Vec<T>, Failure>
where
    F: Future<Output = Result<(Vec<T>, String), Failure>>,
{
    let filter = filter(selection)?;
    let mut items = Vec::new();
    let mut token = String::new();
    loop {
        let request = api::ListRequest {
            page: Some(api::PageRequest { size: 1000, token }),
            filter: Some(filter.clone()),
        };
        let (more, next) = page(request).await?;
        items.extend(more);
        if next.is_empty() {
            return Ok(items);
        }
        token = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_leaves_protection_alone_unless_it_is_spoken_of() {
        let said = |protect, unprotect| {
            let wanted = Update {
                target: "vm1".into(),
                labels: vec![("a".into(), "1".into())],
                unlabel: vec!["b".into()],
                protect,
                unprotect,
                if_revision: 7,
            };
            update(wanted).unwrap().deletion_protection
        };
        assert_eq!(said(false, false), None);
        assert_eq!(said(true, false), Some(true));
        assert_eq!(said(false, true), Some(false));
    }

    #[test]
    fn a_label_that_is_given_twice_is_a_mistake() {
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(
            distinct(vec![pair("a", "1"), pair("b", "1")])
                .unwrap()
                .len(),
            2
        );
        let twice = distinct(vec![pair("a", "1"), pair("a", "2")]).unwrap_err();
        assert_eq!(twice.exit_code(), 2);
        assert!(twice.to_string().contains("label a "));
    }
}
