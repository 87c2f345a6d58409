//! One file per noun. Each command is: convert, call, print.

mod image;
mod node;
mod pool;
mod snapshot;
mod volume;

use std::collections::HashMap;
use std::future::Future;

use clap::CommandFactory;
use goldleaf_proto::v1 as api;
use tonic::{Response, Status, Streaming};

use crate::args::{Args, Command, Global, Selection, SetLabels};
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
        clap_complete::generate(
            *shell,
            &mut Args::command(),
            "goldleaf",
            &mut std::io::stdout(),
        );
        return Ok(());
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
        Command::Node(command) => node::run(&call, command).await,
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
            Ok(answer) => Ok(answer?.into_inner()),
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

    /// Waits for a deletion and says so.
    async fn gone(
        &self,
        target: &str,
        call: impl Future<Output = Result<Response<api::DeleteResponse>, Status>>,
    ) -> Result<(), Failure> {
        self.answer(call).await?;
        eprintln!("{target}: deleted");
        Ok(())
    }

    /// Prints what a watch says until it ends.
    async fn follow<E, T: Printable>(
        &self,
        call: impl Future<Output = Result<Response<Streaming<E>>, Status>>,
        parts: impl Fn(E) -> (i32, Option<T>),
    ) -> Result<(), Failure> {
        let mut events = self.answer(call).await?;
        while let Some(event) = events.message().await? {
            if let (kind, Some(item)) = parts(event) {
                output::event(self.global.output, kind, &item)?;
            }
        }
        Ok(())
    }
}

fn get(target: String) -> api::GetRequest {
    api::GetRequest { target }
}

fn delete(target: String) -> api::DeleteRequest {
    api::DeleteRequest {
        target,
        expected_revision: 0,
    }
}

fn filter(selection: Selection) -> api::Filter {
    api::Filter {
        labels: selection.labels.into_iter().collect(),
    }
}

fn watch(selection: Selection) -> api::WatchRequest {
    api::WatchRequest {
        resume_token: String::new(),
        filter: Some(filter(selection)),
    }
}

fn labels(set: SetLabels) -> HashMap<String, String> {
    set.labels.into_iter().collect()
}

/// Every page of a list.
async fn all<T, F>(
    selection: Selection,
    mut page: impl FnMut(api::ListRequest) -> F,
) -> Result<Vec<T>, Failure>
where
    F: Future<Output = Result<(Vec<T>, String), Failure>>,
{
    let filter = filter(selection);
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
