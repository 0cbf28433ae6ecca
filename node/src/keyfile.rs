//! Key files: PKCS#8 PEM, mode 0600, never overwritten, refused when others can read them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use wire::keys::{ClientSecret, KeyError, NodeSecret};

use crate::exit::{Exit, ExitContext, Refusal};

/// 32 bytes from the system's generator.
pub fn entropy() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A fresh secret of a replica.
pub fn generate_node() -> Result<NodeSecret, Refusal> {
    generate(NodeSecret::generate)
}

/// A fresh secret of a client or operator.
pub fn generate_client() -> Result<ClientSecret, Refusal> {
    generate(ClientSecret::generate)
}

fn generate<T>(make: impl Fn(&[u8; 32]) -> Result<T, KeyError>) -> Result<T, Refusal> {
    let entropy = entropy().or_exit(Exit::Failure, "cannot read /dev/urandom")?;
    make(&entropy).or_exit(Exit::Failure, "cannot make a key")
}

/// The secret of a replica.
pub fn load_node(path: &Path) -> Result<NodeSecret, Refusal> {
    load(path, NodeSecret::from_pem)
}

/// The secret of a client.
pub fn load_client(path: &Path) -> Result<ClientSecret, Refusal> {
    load(path, ClientSecret::from_pem)
}

fn load<T>(path: &Path, read: impl Fn(&str) -> Result<T, KeyError>) -> Result<T, Refusal> {
    let shown = path.display();
    let refuse = |text: String| Refusal::preflight(format!("key file {shown}{text}"));
    let metadata = fs::metadata(path).map_err(|error| refuse(format!(": {error}")))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(refuse(format!(
            " can be read by others (mode {mode:04o}): whoever copies it can act in its name. Run: \
             chmod 600 {shown}"
        )));
    }
    let text = fs::read_to_string(path).map_err(|error| refuse(format!(": {error}")))?;
    let secret = read(&text).map_err(|error| refuse(format!(": {error}")));
    drop(zeroize::Zeroizing::new(text));
    secret
}

/// Writes a key file that only its owner can read; refuses to overwrite one.
pub fn store(path: &Path, pem: &str) -> Result<(), Refusal> {
    let shown = path.display();
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Refusal::failure(format!(
                "{shown} exists; a key is never overwritten. Move it away first"
            )),
            _ => Refusal::failure(format!("cannot write {shown}: {error}")),
        })?;
    file.write_all(pem.as_bytes())
        .and_then(|()| file.sync_all())
        .or_exit(Exit::Failure, format!("cannot write {shown}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_loaded_protected() {
        let path = std::env::temp_dir().join(format!("hippo-key-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        assert_eq!(load_node(&path).unwrap_err().exit, Exit::Preflight);
        let secret = generate_node().unwrap();
        store(&path, &secret.to_pem()).unwrap();
        assert!(store(&path, &secret.to_pem()).is_err());
        assert_eq!(load_node(&path).unwrap().public_key(), secret.public_key());

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let refusal = load_node(&path).unwrap_err();
        assert_eq!(refusal.exit, Exit::Preflight);
        assert!(refusal.to_string().contains("chmod 600"), "{refusal}");

        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "nonsense").unwrap();
        assert!(
            load_client(&path)
                .unwrap_err()
                .to_string()
                .contains("PKCS#8")
        );
        fs::remove_file(path).unwrap();
    }
}
