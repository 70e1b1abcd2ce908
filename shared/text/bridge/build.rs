fn main() {
    // The repository's root, for shared/text/interrupt.h.
    cxx_build::bridge("src/lib.rs").include("../../..").std("c++20").compile("conclave_text_bridge_cxx");
    println!("cargo:rerun-if-changed=src/lib.rs");
    println!("cargo:rerun-if-changed=../interrupt.h");
}
