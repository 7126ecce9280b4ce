//! A minimal writer of image archives: one static program in an otherwise empty image.

use std::fs;
use std::path::Path;

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::error::{Context, Result};

/// Writes an archive that `ctr images import` takes. Equal programs give equal bytes.
pub(crate) fn write(archive: &Path, image: &str, program: &Path, name: &str) -> Result<()> {
    let content = fs::read(program).at("read", program)?;
    let layer = tar(&[(name, &content, 0o755)]).at("pack", program)?;
    let digest = hex(&Sha256::digest(&layer));
    let configuration = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {"Entrypoint": [format!("/{name}")], "User": "65532:65532"},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    })
    .to_string();
    let configuration_name = format!("{}.json", hex(&Sha256::digest(configuration.as_bytes())));
    let layer_name = format!("{digest}/layer.tar");
    let manifest =
        json!([{"Config": configuration_name, "RepoTags": [image], "Layers": [layer_name]}]).to_string();
    let bytes = tar(&[
        (&configuration_name, configuration.as_bytes(), 0o644),
        (&layer_name, &layer, 0o644),
        ("manifest.json", manifest.as_bytes(), 0o644),
    ])
    .at("pack", program)?;
    fs::write(archive, bytes).at("write", archive)
}

fn tar(files: &[(&str, &[u8], u32)]) -> std::io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content, mode) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        header.set_mtime(0);
        builder.append_data(&mut header, name, *content)?;
    }
    builder.into_inner()
}

/// The machine's architecture in the words of image manifests.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_programs_give_equal_archives() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        fs::write(&program, "content").unwrap();
        let (one, two) = (directory.path().join("1.tar"), directory.path().join("2.tar"));
        write(&one, "conch.local/x:1", &program, "x").unwrap();
        write(&two, "conch.local/x:1", &program, "x").unwrap();
        assert_eq!(fs::read(&one).unwrap(), fs::read(&two).unwrap());
        let mut archive = tar::Archive::new(fs::File::open(&one).unwrap());
        let names: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names.len(), 3);
        assert_eq!(names[2], "manifest.json");
    }

    #[test]
    fn hexadecimal_digits() {
        assert_eq!(hex(&[0, 10, 255]), "000aff");
    }
}
