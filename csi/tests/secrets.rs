//! No secret of any call reaches the log or an answer, whatever becomes of the call.
//!
//! The calls are those of the specification's own description, so one that is new is among them.
#![allow(clippy::unwrap_used)] // a test that cannot go on is to fail

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use goldleaf_csi::app;
use goldleaf_csi::args::Args;
use prost::Message;
use prost::bytes::{Buf, BufMut};
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value,
};
use tokio_util::sync::CancellationToken;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

const SECRET: &str = "hunter2";

/// Messages that are bytes already.
#[derive(Clone, Copy, Debug, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut bytes = vec![0; from.remaining()];
        from.copy_to_slice(&mut bytes);
        Ok(Some(bytes))
    }
}

/// A log that the test reads.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn is_secret(field: &FieldDescriptor) -> bool {
    let mark = field
        .parent_pool()
        .get_extension_by_name("csi.v1.csi_secret");
    let options = field.options();
    mark.is_some_and(|mark| options.get_extension(&mark).as_bool() == Some(true))
        || field.name() == "mount_flags"
}

/// A message with a secret wherever one may be, and something everywhere else; how many secrets.
fn filled(descriptor: &MessageDescriptor, depth: u32) -> (DynamicMessage, u32) {
    let mut message = DynamicMessage::new(descriptor.clone());
    let mut secrets = 0;
    for field in descriptor.fields() {
        let value = if is_secret(&field) {
            secrets += 1;
            let secret = Value::String(SECRET.into());
            match field.is_map() {
                true => Value::Map([(MapKey::String("password".into()), secret)].into()),
                false => Value::List(vec![secret]),
            }
        } else if field.is_map() {
            continue;
        } else {
            let kind = field.kind();
            let one = if let (Kind::Message(inner), true) = (&kind, depth > 0) {
                let (inner, within) = filled(inner, depth - 1);
                secrets += within;
                Value::Message(inner)
            } else if matches!(kind, Kind::String) {
                Value::String("/x".into())
            } else if matches!(kind, Kind::Enum(_)) {
                Value::EnumNumber(1)
            } else {
                continue;
            };
            match field.is_list() {
                true => Value::List(vec![one]),
                false => one,
            }
        };
        message.set_field(&field, value);
    }
    (message, secrets)
}

async fn driver(folder: &Path, role: &[&str], stop: &CancellationToken) -> Channel {
    let socket = format!("unix://{}/{}.sock", folder.display(), role[0]);
    let endpoint = format!("--endpoint={socket}");
    let all = ["goldleaf-csi"].iter().chain(role);
    let args = Args::parse_from(all.copied().chain([endpoint.as_str()]));
    let told = stop.clone().cancelled_owned();
    tokio::spawn(async move { app::serve(&args, told).await.unwrap() });
    let endpoint = Endpoint::from_shared(socket).unwrap();
    loop {
        match endpoint.connect().await {
            Ok(channel) => return channel,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Calls it, and answers every word that came back.
async fn call(channel: &Channel, path: String, body: Vec<u8>) -> String {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let path = path.parse().unwrap();
    match client.server_streaming(Request::new(body), path, Raw).await {
        Err(status) => format!("{status:?}"),
        Ok(answer) => {
            let (mut stream, mut said) = (answer.into_inner(), String::new());
            loop {
                match stream.message().await {
                    Ok(Some(bytes)) => said += &String::from_utf8_lossy(&bytes),
                    Ok(None) => return said,
                    Err(status) => return format!("{said}{status:?}"),
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_of_any_call_is_logged_or_answered() {
    let log = Log::default();
    let to = log.clone();
    tracing_subscriber::fmt()
        .with_env_filter("trace")
        .with_ansi(false)
        .with_writer(move || to.clone())
        .init();
    let (folder, stop) = (tempfile::tempdir().unwrap(), CancellationToken::new());
    let nobody = format!("--agent-socket={}/nobody.sock", folder.path().display());
    let roles: [&[&str]; 2] = [
        &["controller", "--server", "http://127.0.0.1:1"],
        &["node", &nobody],
    ];
    let controller = driver(folder.path(), roles[0], &stop).await;
    let node = driver(folder.path(), roles[1], &stop).await;
    let pool = DescriptorPool::decode(csi_proto::FILE_DESCRIPTOR_SET).unwrap();
    let (mut calls, mut secrets) = (0, 0);
    for service in pool.services().filter(|s| s.package_name() == "csi.v1") {
        let channel = match service.name() {
            "Node" => &node,
            _ => &controller,
        };
        for method in service.methods() {
            let (message, within) = filled(&method.input(), 4);
            let path = format!("/{}/{}", service.full_name(), method.name());
            let said = call(channel, path.clone(), message.encode_to_vec()).await;
            assert!(!said.contains(SECRET), "{path} answered {said}");
            let logged = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
            assert!(!logged.contains(SECRET), "{path} logged its secret");
            if within > 0 && !said.contains("Unimplemented") {
                let name = method.input().name().to_owned();
                assert!(logged.contains(&name), "{path} was not logged: {said}");
                calls += 1;
            }
            secrets += within;
        }
    }
    assert!(
        calls >= 15 && secrets >= 20,
        "only {calls} calls with {secrets} secrets"
    );
    let logged = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(
        logged.contains("password") && logged.contains("***"),
        "nothing was hidden"
    );
    stop.cancel();
}
