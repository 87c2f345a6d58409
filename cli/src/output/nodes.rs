//! What is done to nodes as a whole, as tables.

use goldleaf_proto::v1 as api;

use super::Printable;

fn or_dash(text: &str) -> String {
    if text.is_empty() {
        "-".into()
    } else {
        text.to_owned()
    }
}

impl Printable for api::ActiveVolume {
    const MESSAGE: &'static str = "goldleaf.v1.ActiveVolume";
    const COLUMNS: &'static [&'static str] = &["NAME", "HOLDER", "DEVICE", "KEPT BECAUSE", "ID"];

    fn row(&self) -> Vec<String> {
        let holder = match self.holder() {
            api::Holder::Unspecified | api::Holder::Host => "host",
            api::Holder::Csi => "csi",
        };
        vec![
            or_dash(&self.name),
            holder.into(),
            self.device_path.clone(),
            or_dash(&self.kept_because),
            self.id.clone(),
        ]
    }

    fn name(&self) -> &str {
        if self.name.is_empty() {
            &self.id
        } else {
            &self.name
        }
    }
}

impl Printable for api::DrainNodeResponse {
    const MESSAGE: &'static str = "goldleaf.v1.DrainNodeResponse";
    const COLUMNS: &'static [&'static str] = api::Node::COLUMNS;

    fn row(&self) -> Vec<String> {
        self.node.as_ref().map(Printable::row).unwrap_or_default()
    }

    fn name(&self) -> &str {
        self.node.as_ref().map_or("", Printable::name)
    }
}

impl Printable for api::GivenUp {
    const MESSAGE: &'static str = "goldleaf.v1.GivenUp";
    const COLUMNS: &'static [&'static str] = &["KIND", "NAME", "WHAT BECOMES OF IT", "ID"];

    fn row(&self) -> Vec<String> {
        vec![
            self.kind.clone(),
            self.name.clone(),
            self.becomes.clone(),
            self.id.clone(),
        ]
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl Printable for api::AdoptionChange {
    const MESSAGE: &'static str = "goldleaf.v1.AdoptionChange";
    const COLUMNS: &'static [&'static str] = &["KIND", "NAME", "WHAT BECOMES OF IT", "ID"];

    fn row(&self) -> Vec<String> {
        vec![
            self.kind.clone(),
            self.name.clone(),
            self.becomes.clone(),
            self.id.clone(),
        ]
    }

    fn name(&self) -> &str {
        &self.name
    }
}
