#include "shared/placement/topology_file.h"

#include "absl/strings/str_cat.h"
#include "conclave/v1/placement.pb.h"
#include "google/protobuf/util/json_util.h"
#include "shared/base/json_file.h"
#include "shared/base/status_macros.h"
#include "shared/placement/topology_proto.h"

namespace conclave::placement {

std::string TopologyFilePath(const std::string& state_dir, const std::string& member) {
  return state_dir + "/topology-" + member + ".json";
}

absl::StatusOr<std::optional<Topology>> ReadTopologyFile(const std::string& path) {
  absl::StatusOr<std::string> text = ReadFile(path);
  if (absl::IsNotFound(text.status())) return std::nullopt;
  RETURN_IF_ERROR(text.status());
  v1::Topology proto;
  // A later version may have kept more than this one knows.
  google::protobuf::util::JsonParseOptions options;
  options.ignore_unknown_fields = true;
  if (const auto parsed = google::protobuf::util::JsonStringToMessage(*text, &proto, options);
      !parsed.ok()) {
    return absl::DataLossError(absl::StrCat(path, ": not a topology (", parsed.ToString(),
                                            "); delete the file to start without it"));
  }
  return FromProto(proto);
}

absl::Status WriteTopologyFile(const std::string& path, const Topology& topology) {
  v1::Topology proto;
  ToProto(topology, &proto);
  std::string text;
  if (const auto printed = google::protobuf::util::MessageToJsonString(proto, &text);
      !printed.ok()) {
    return absl::InternalError(absl::StrCat(path, ": ", printed.ToString()));
  }
  // Each member writes each change: nothing may wait for a disk, and whoever finds the file damaged
  // starts without.
  return WriteFileAtomically(path, text, Flush::kNo);
}

}  // namespace conclave::placement
