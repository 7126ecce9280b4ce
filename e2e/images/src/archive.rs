//! The bytes of an image: an OCI layout in a tar file, with the `manifest.json` that older tools read beside it.
//!
//! `ctr images import`, `kind load image-archive`, `podman load`, `skopeo copy oci-archive:` and `docker load` take it.

use std::fmt::Write as _;
use std::io;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The user and group of every process in the images; the number that distroless images call `nonroot`.
pub(crate) const USER_ID: u64 = 65_532;

/// Instead of the time of the build, which would change the digest.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// What an image is made from.
#[derive(Debug, Clone)]
pub struct Image<'a> {
    /// Full reference, e.g. `ghcr.io/conch-rs/conch-sidecar:0.1.0`.
    pub name: &'a str,
    /// Absolute path of the binary inside the image, and its entry point.
    pub binary_path: &'a str,
    /// The binary itself; it must need no shared library.
    pub binary: &'a [u8],
    /// In the words of OCI: `amd64`, `arm64`.
    pub architecture: &'a str,
    /// Shown by registries.
    pub description: &'a str,
}

/// A finished image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// The tar file.
    pub bytes: Vec<u8>,
    /// `sha256:…` of the manifest: what registries and `kubectl` call the image's digest.
    pub digest: String,
    /// What a node stores: the unpacked layer and the configuration, in bytes.
    pub stored_bytes: u64,
}

/// Why no image could be made.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The name has no tag, or is otherwise no full reference.
    #[error("image name {0:?} is no full reference such as ghcr.io/owner/name:tag")]
    Name(String),
    /// The binary's path is not absolute, or has a directory.
    #[error("binary path {0:?} is not a file in the root directory")]
    BinaryPath(String),
    /// The binary asks for a loader, which the image does not have.
    #[error("the binary is not static: it names the interpreter {0:?}")]
    NotStatic(String),
    /// The binary is not an ELF file for 64 bits.
    #[error("the binary is no 64-bit little-endian ELF file")]
    NotElf,
    /// Writing into memory failed.
    #[error("failed to write the archive")]
    Write(#[from] io::Error),
}

struct Blob {
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        Self { digest: sha256(&bytes), bytes }
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": format!("sha256:{}", self.digest), "size": self.bytes.len()})
    }
}

impl Image<'_> {
    /// Makes the archive.
    ///
    /// # Errors
    /// The name or path is malformed, or the binary would not start in an otherwise empty image.
    pub fn archive(&self) -> Result<Archive, ImageError> {
        let tag = self.check()?;
        let layer = Blob::new(self.layer()?);
        let configuration = Blob::new(self.configuration(&layer).to_string().into_bytes());
        let manifest = Blob::new(
            json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": configuration.descriptor("application/vnd.oci.image.config.v1+json"),
                "layers": [layer.descriptor("application/vnd.oci.image.layer.v1.tar")],
            })
            .to_string()
            .into_bytes(),
        );
        let mut entry = manifest.descriptor("application/vnd.oci.image.manifest.v1+json");
        entry["platform"] = json!({"architecture": self.architecture, "os": "linux"});
        entry["annotations"] = json!({
            "io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": tag,
        });
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry],
        });
        let older =
            json!([{"Config": configuration.path(), "RepoTags": [self.name], "Layers": [layer.path()]}]);

        let mut tar = tar::Builder::new(Vec::new());
        append(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
        append(&mut tar, "index.json", index.to_string().as_bytes(), 0o644)?;
        append(&mut tar, "manifest.json", older.to_string().as_bytes(), 0o644)?;
        for blob in [&manifest, &configuration, &layer] {
            append(&mut tar, &blob.path(), &blob.bytes, 0o644)?;
        }
        Ok(Archive {
            bytes: tar.into_inner()?,
            digest: format!("sha256:{}", manifest.digest),
            stored_bytes: (layer.bytes.len() + configuration.bytes.len()) as u64,
        })
    }

    /// The tag, once everything that could be wrong was looked at.
    fn check(&self) -> Result<&str, ImageError> {
        let (repository, tag) =
            self.name.rsplit_once(':').ok_or_else(|| ImageError::Name(self.name.to_owned()))?;
        let host = repository.split('/').next().unwrap_or_default();
        if !repository.contains('/') || !host.contains('.') || tag.is_empty() || tag.contains('/') {
            return Err(ImageError::Name(self.name.to_owned()));
        }
        let file = self.binary_path.strip_prefix('/').unwrap_or_default();
        if file.is_empty() || file.contains('/') {
            return Err(ImageError::BinaryPath(self.binary_path.to_owned()));
        }
        match interpreter(self.binary)? {
            Some(interpreter) => Err(ImageError::NotStatic(interpreter)),
            None => Ok(tag),
        }
    }

    fn layer(&self) -> Result<Vec<u8>, ImageError> {
        let mut tar = tar::Builder::new(Vec::new());
        append(&mut tar, "etc/", &[], 0o755)?;
        append(&mut tar, "etc/group", group().as_bytes(), 0o644)?;
        append(&mut tar, "etc/passwd", passwd().as_bytes(), 0o644)?;
        append(&mut tar, self.binary_path.trim_start_matches('/'), self.binary, 0o755)?;
        Ok(tar.into_inner()?)
    }

    fn configuration(&self, layer: &Blob) -> Value {
        json!({
            "architecture": self.architecture,
            "os": "linux",
            "created": CREATED,
            "config": {
                "User": format!("{USER_ID}:{USER_ID}"),
                "Entrypoint": [self.binary_path],
                "WorkingDir": "/",
                "Labels": {
                    "org.opencontainers.image.description": self.description,
                    "org.opencontainers.image.licenses": "Apache-2.0",
                    "org.opencontainers.image.url": "https://conch.rs",
                },
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", layer.digest)]},
            "history": [{"created": CREATED, "created_by": "conch-images"}],
        })
    }
}

/// `/etc/passwd`.
pub(crate) fn passwd() -> String {
    format!("root:x:0:0:root:/:/sbin/nologin\nconch:x:{USER_ID}:{USER_ID}:conch:/:/sbin/nologin\n")
}

/// `/etc/group`.
pub(crate) fn group() -> String {
    format!("root:x:0:\nconch:x:{USER_ID}:\n")
}

/// Adds a file, or a directory if the path ends with a slash; nothing of this machine gets into the header.
fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(if path.ends_with('/') {
        tar::EntryType::Directory
    } else {
        tar::EntryType::Regular
    });
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, path, bytes)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The loader that an ELF file asks for (program header `PT_INTERP`), or `None` for a static one.
fn interpreter(binary: &[u8]) -> Result<Option<String>, ImageError> {
    const PT_INTERP: u64 = 3;
    if !binary.starts_with(b"\x7fELF\x02\x01") {
        return Err(ImageError::NotElf);
    }
    let table = number(binary, 32, 8)?;
    let size = number(binary, 54, 2)?;
    let count = number(binary, 56, 2)?;
    for index in 0..count {
        let header =
            index.checked_mul(size).and_then(|offset| offset.checked_add(table)).ok_or(ImageError::NotElf)?;
        if number(binary, header, 4)? == PT_INTERP {
            let start = number(binary, header.saturating_add(8), 8)?;
            let length = number(binary, header.saturating_add(32), 8)?;
            let bytes = slice(binary, start, length)?;
            let text = String::from_utf8_lossy(bytes);
            return Ok(Some(text.trim_end_matches('\0').to_owned()));
        }
    }
    Ok(None)
}

fn slice(binary: &[u8], start: u64, length: u64) -> Result<&[u8], ImageError> {
    let range = || {
        let start = usize::try_from(start).ok()?;
        let length = usize::try_from(length).ok()?;
        binary.get(start..start.checked_add(length)?)
    };
    range().ok_or(ImageError::NotElf)
}

/// A little-endian number of `length` bytes.
fn number(binary: &[u8], start: u64, length: u64) -> Result<u64, ImageError> {
    Ok(slice(binary, start, length)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read as _;

    /// A file with an ELF header, no program headers, and a body.
    fn binary(body: &[u8]) -> Vec<u8> {
        let mut file = vec![0_u8; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file.extend_from_slice(body);
        file
    }

    fn image<'a>(name: &'a str, binary: &'a [u8]) -> Image<'a> {
        Image { name, binary_path: "/conch-sidecar", binary, architecture: "amd64", description: "test" }
    }

    fn entries(tar: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut archive = tar::Archive::new(tar);
        let read = |entry: io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            let mode = entry.header().mode().unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (path, mode, bytes)
        };
        archive.entries().unwrap().map(read).collect()
    }

    fn blob(archive: &Archive, digest: &Value) -> Vec<u8> {
        let digest = digest.as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
        let found = entries(&archive.bytes).into_iter().find(|(path, ..)| path.ends_with(&digest)).unwrap();
        assert_eq!(sha256(&found.2), digest, "a blob is named by its content");
        found.2
    }

    #[test]
    fn the_same_binary_gives_the_same_digest_and_another_one_another() {
        let one = image("ghcr.io/a/b:1", &binary(b"one")).archive().unwrap();
        assert_eq!(image("ghcr.io/a/b:1", &binary(b"one")).archive().unwrap(), one);
        assert_ne!(image("ghcr.io/a/b:1", &binary(b"two")).archive().unwrap().digest, one.digest);
        let renamed = image("ghcr.io/a/b:2", &binary(b"one")).archive().unwrap();
        assert_eq!(renamed.digest, one.digest, "the name is no part of the content");
    }

    #[test]
    fn every_reference_from_the_index_to_the_layer_resolves() {
        let archive = image("ghcr.io/a/b:1", &binary(b"body")).archive().unwrap();
        let files = entries(&archive.bytes);
        let index: Value =
            serde_json::from_slice(&files.iter().find(|file| file.0 == "index.json").unwrap().2).unwrap();
        assert_eq!(index["manifests"][0]["digest"], json!(archive.digest));
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "ghcr.io/a/b:1");
        let manifest: Value =
            serde_json::from_slice(&blob(&archive, &index["manifests"][0]["digest"])).unwrap();
        let configuration: Value =
            serde_json::from_slice(&blob(&archive, &manifest["config"]["digest"])).unwrap();
        let layer = blob(&archive, &manifest["layers"][0]["digest"]);
        assert_eq!(manifest["layers"][0]["size"], json!(layer.len()));
        assert_eq!(configuration["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        assert_eq!(configuration["config"]["User"], "65532:65532");
        assert_eq!(configuration["config"]["Entrypoint"], json!(["/conch-sidecar"]));

        let files = entries(&layer);
        let names: Vec<_> = files.iter().map(|(path, mode, _)| (path.as_str(), *mode)).collect();
        assert_eq!(
            names,
            [("etc/", 0o755), ("etc/group", 0o644), ("etc/passwd", 0o644), ("conch-sidecar", 0o755)]
        );
        assert!(String::from_utf8_lossy(&files[2].2).contains("conch:x:65532:65532:"));
        assert_eq!(files[3].2, binary(b"body"));
    }

    #[test]
    fn a_binary_that_needs_a_loader_is_refused() {
        let this_test = std::fs::read("/proc/self/exe").unwrap();
        let error = image("ghcr.io/a/b:1", &this_test).archive().unwrap_err();
        assert!(matches!(&error, ImageError::NotStatic(loader) if loader.contains("ld-linux")), "{error}");
        assert!(matches!(image("ghcr.io/a/b:1", b"#!/bin/sh").archive().unwrap_err(), ImageError::NotElf));
    }

    #[test]
    fn malformed_names_and_paths_are_refused() {
        for name in ["", "conch", "conch:1", "a/b:1", "ghcr.io/a/b", "ghcr.io/a/b:", "ghcr.io:80/a/b"] {
            assert!(matches!(image(name, &binary(b"")).archive(), Err(ImageError::Name(_))), "{name}");
        }
        for binary_path in ["", "/", "conch", "/bin/conch"] {
            let binary = binary(b"");
            let image = Image { binary_path, ..image("ghcr.io/a/b:1", &binary) };
            assert!(matches!(image.archive(), Err(ImageError::BinaryPath(_))), "{binary_path}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_elf_reader_panic(header in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut file = b"\x7fELF\x02\x01".to_vec();
            file.extend(header);
            let _ = interpreter(&file);
        }
    }
}
