use std::fs;
use std::path::Path;

const PROTOS: [&str; 4] = ["plugin.proto", "multiplexing.proto", "logical.proto", "backend.proto"];

/// The generated modules by package, and the folders that contain them.
const MODULES: [(&str, &str); 4] = [
    ("logical.rs", "logical.rs"),
    ("pb.rs", "pb.rs"),
    ("plugin.rs", "plugin.rs"),
    ("pluginutil.multiplexing.rs", "pluginutil/multiplexing.rs"),
];

/// Messages that can hold a secret. They get no `Debug`, so that formatting cannot write a secret to a log.
const SECRET: [&str; 16] = [
    ".pb.Request",
    ".pb.Response",
    ".pb.Secret",
    ".pb.Header",
    ".pb.HandleRequestArgs",
    ".pb.HandleRequestReply",
    ".pb.HandleExistenceCheckArgs",
    ".pb.StorageEntry",
    ".pb.StorageGetReply",
    ".pb.StoragePutArgs",
    ".pb.SetupArgs",
    ".pb.GeneratePasswordFromPolicyReply",
    ".pb.ResponseWrapDataArgs",
    ".pb.ResponseWrapDataReply",
    ".pb.ResponseWrapInfo",
    ".pb.GenerateIdentityTokenResponse",
];

/// Compares the committed code with the code generated from `proto/`. `PROTO_WRITE=1` (`make proto`) writes it instead.
#[test]
#[allow(clippy::disallowed_methods, reason = "a switch of the test, not of the plugin")]
fn generated_code_matches_proto() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().unwrap();
    let descriptors = protox::compile(PROTOS, [root.join("proto")]).unwrap();
    tonic_prost_build::configure()
        .build_transport(false)
        .out_dir(out.path())
        .codec_path("crate::pb::codec::Codec")
        .skip_debug(SECRET)
        .compile_fds(descriptors)
        .unwrap();

    let mut made: Vec<String> =
        fs::read_dir(out.path()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    made.sort();
    assert_eq!(made, MODULES.map(|(generated, _)| generated));

    for (generated, kept) in MODULES {
        let fresh = fs::read_to_string(out.path().join(generated)).unwrap();
        let committed = root.join("sdk/src/pb").join(kept);
        if std::env::var_os("PROTO_WRITE").is_some() {
            fs::write(&committed, &fresh).unwrap();
        } else {
            let found = fs::read_to_string(&committed).unwrap();
            assert!(found == fresh, "sdk/src/pb/{kept} is not what proto/ gives; run `make proto`");
        }
    }
}
