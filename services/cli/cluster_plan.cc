#include "services/cli/cluster_plan.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/cli/bundled_model.h"
#include "services/cli/cluster_state.h"
#include "services/cli/hint.h"
#include "services/cli/port_owner.h"
#include "shared/base/address.h"
#include "shared/base/status_macros.h"
#include "shared/rpc/cluster_id.h"
#include "shared/rpc/cluster_secret.h"
#include "shared/rpc/watched_tls.h"

namespace conclave::cli {
namespace {

// Distances from the base port, so that the default base gives the default ports of
// docs/architecture.md.
constexpr int kGrpcOffset = 1;
constexpr int kControllerOffset = 10;
constexpr int kEngineOffset = 20;
constexpr int kExpertOffset = 30;
constexpr int kOpsOffset = 1000;

class Planner {
 public:
  Planner(const Context& context, int cores) : context_(context), cores_(cores) {}

  absl::StatusOr<ClusterPlan> Plan();

 private:
  const Settings::Row& Row(const std::string& key) const {
    return *std::find_if(context_.rows.begin(), context_.rows.end(),
                         [&](const Settings::Row& row) { return row.key == key; });
  }
  bool IsSet(const std::string& key) const { return Row(key).source != "default"; }

  // The address for the `index`th process: from the setting `key` if it is set, else from the base
  // port.
  absl::StatusOr<std::string> TakePort(const std::string& key, const std::string& purpose,
                                       int offset, int index);

  // The name of the `index`th of `count` processes of a kind: the setting where it can be had.
  // INVALID_ARGUMENT for one name for several processes, and for one that is taken.
  absl::StatusOr<std::string> TakeName(const std::string& kind, int index, int count);

  // The flags that every process of the section gets: those given to `up`, and the settings file.
  std::vector<std::string> HandedOn(const std::string& section) const;

  const Context& context_;
  const int cores_;
  std::set<int> taken_;
  std::set<std::string> names_ = {"controller", "supervisor"};
};

absl::StatusOr<std::string> Planner::TakePort(const std::string& key, const std::string& purpose,
                                              int offset, int index) {
  const UpOptions& up = context_.options.up;
  Address address{"127.0.0.1", up.base_port + offset};
  const bool set = IsSet(key);
  if (set) {
    ASSIGN_OR_RETURN(address, ParseAddress(Row(key).value));
  }
  // Port 0 would be unknown to the others before the process has started: a free one is taken now.
  const bool any = address.port == 0;
  if (any) address.port = up.base_port + offset;
  address.port += index;
  if (up.auto_ports || any) {
    do {
      ASSIGN_OR_RETURN(address.port, NearestFreePort(address));
    } while (taken_.contains(address.port) && ++address.port);
  } else if (taken_.contains(address.port) || !PortIsFree(address)) {
    const std::string owner =
        taken_.contains(address.port) ? "another process of this cluster" : PortOwner(address.port);
    return absl::InvalidArgumentError(absl::StrCat(
        "port ", address.port, " for ", purpose, " is ",
        owner.empty() ? std::string("not to be had on ") + address.host : "in use by " + owner,
        "; stop that, or let free ports be taken: ", Hint("up --auto-ports", context_.state_dir),
        ", or choose others: ",
        set ? absl::StrCat(Row(key).flag, " HOST:PORT") : std::string("--base-port PORT")));
  }
  taken_.insert(address.port);
  return address.ToString();
}

absl::StatusOr<std::string> Planner::TakeName(const std::string& kind, int index, int count) {
  const std::string key = kind + ".name";
  const Settings::Row& row = Row(key);
  std::string name = kind == "gateway" ? kind : absl::StrCat(kind, "-", index);
  if (IsSet(key) && row.value != name) {
    if (count > 1) {
      return absl::InvalidArgumentError(absl::StrCat(
          row.source, ": ", key, " is \"", row.value, "\", and conclave up starts ", count,
          " of that kind; leave it out: they are called ", kind, "-0 to ", kind, "-", count - 1));
    }
    name = row.value;
  }
  if (!names_.insert(name).second) {
    return absl::InvalidArgumentError(absl::StrCat(
        row.source, ": ", key, " is \"", name, "\", as another process is called; choose another"));
  }
  return name;
}

std::vector<std::string> Planner::HandedOn(const std::string& section) const {
  std::vector<std::string> flags;
  if (!context_.config_file.empty()) {
    flags.push_back("--config");
    flags.push_back(std::filesystem::absolute(context_.config_file).string());
  }
  for (const Settings::Row& row : context_.rows) {
    if (!absl::StartsWith(row.source, "flag ") && row.source != kBundledSource) continue;
    const size_t dot = row.key.find('.');
    const std::string row_section = dot == std::string::npos ? "" : row.key.substr(0, dot);
    if (!row_section.empty() && row_section != section) continue;
    std::string name = dot == std::string::npos ? row.key : row.key.substr(dot + 1);
    if (name == "listen" || name == "ops_listen" || name == "http_listen" ||
        name == "grpc_listen" || name == "name" || row.key == "controller_address" ||
        row.key == "cluster_id" || row.key == "state_dir") {
      continue;  // decided here for each process
    }
    std::replace(name.begin(), name.end(), '_', '-');
    flags.push_back(absl::StrCat("--", name, "=", row.value));
  }
  flags.push_back("--state-dir=" + context_.state_dir);
  return flags;
}

absl::StatusOr<ClusterPlan> Planner::Plan() {
  const UpOptions& up = context_.options.up;
  if (const Settings::Row& row = Row("controller_address"); absl::StartsWith(row.source, "flag ")) {
    return absl::InvalidArgumentError(absl::StrCat(
        row.source,
        ": conclave up starts a controller of its own; --controller-listen says where, "
        "and a worker joins another cluster by conclave-expert (docs/two-machines.md)"));
  }
  ClusterPlan plan;
  plan.cluster_id = context_.options.common.cluster_id;
  if (const auto before = ReadClusterState(context_.state_dir);
      before.ok() && plan.cluster_id.empty()) {
    plan.cluster_id = before->cluster_id;
  }
  if (plan.cluster_id.empty()) plan.cluster_id = rpc::DrawClusterId();
  if (const std::string& secret = context_.options.common.cluster_secret_file; !secret.empty()) {
    plan.cluster_secret_file = std::filesystem::absolute(secret).string();
  }
  plan.tls = context_.options.common.tls;
  for (std::string* path : {&plan.tls.cert, &plan.tls.key, &plan.tls.ca}) {
    if (!path->empty()) *path = std::filesystem::absolute(*path).string();
  }
  plan.tls_server_name = context_.options.common.tls_server_name;
  plan.api_tls = !context_.options.gateway.tls.cert.empty();
  const auto add = [&](PlannedProcess process) {
    const std::vector<std::string> handed_on = HandedOn(process.kind);
    process.flags.insert(process.flags.begin(), handed_on.begin(), handed_on.end());
    process.flags.push_back("--cluster-id=" + plan.cluster_id);
    process.flags.push_back("--controller-address=" + plan.controller_address);
    plan.processes.push_back(std::move(process));
  };

  ASSIGN_OR_RETURN(plan.http_address, TakePort("gateway.http_listen", "gateway HTTP", 0, 0));
  ASSIGN_OR_RETURN(plan.grpc_address,
                   TakePort("gateway.grpc_listen", "gateway gRPC", kGrpcOffset, 0));
  ASSIGN_OR_RETURN(plan.gateway_ops_address,
                   TakePort("gateway.ops_listen", "gateway metrics", kOpsOffset, 0));
  ASSIGN_OR_RETURN(plan.controller_address,
                   TakePort("controller.listen", "controller gRPC", kControllerOffset, 0));
  ASSIGN_OR_RETURN(
      const std::string controller_ops,
      TakePort("controller.ops_listen", "controller HTTP", kControllerOffset + kOpsOffset, 0));
  add({.name = "controller",
       .kind = "controller",
       .program = "conclave-controller",
       .flags = {"--listen=" + plan.controller_address, "--ops-listen=" + controller_ops},
       .address = plan.controller_address,
       .ops_address = controller_ops});

  const auto add_members = [&](const std::string& kind, int count, int offset) -> absl::Status {
    for (int i = 0; i < count; ++i) {
      PlannedProcess process;
      ASSIGN_OR_RETURN(process.name, TakeName(kind, i, count));
      process.kind = kind;
      process.program = "conclave-" + kind;
      ASSIGN_OR_RETURN(process.address,
                       TakePort(kind + ".listen", process.name + " gRPC", offset, i));
      ASSIGN_OR_RETURN(process.ops_address, TakePort(kind + ".ops_listen", process.name + " HTTP",
                                                     offset + kOpsOffset, i));
      process.flags = {"--name=" + process.name, "--listen=" + process.address,
                       "--ops-listen=" + process.ops_address};
      if (!IsSet(kind + ".threads")) {
        // A step seldom has as much for one worker as for the others: who has more may use the
        // cores that they leave.
        const int cores = kind == "expert" ? 2 * cores_ / count : cores_ / count;
        process.flags.push_back(absl::StrCat("--threads=", std::clamp(cores, 1, cores_)));
      }
      if (kind == "engine" && count > 1) {
        const double share = context_.options.engine.kv_memory_share / count;
        process.flags.push_back(absl::StrCat("--kv-memory-share=", share));
      }
      if (kind == "engine" && up.workers == 0 && !IsSet("engine.experts")) {
        process.flags.push_back("--experts=local");
      }
      add(std::move(process));
    }
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(add_members("expert", up.workers, kExpertOffset));
  RETURN_IF_ERROR(add_members("engine", up.engines, kEngineOffset));
  ASSIGN_OR_RETURN(const std::string gateway, TakeName("gateway", 0, 1));
  add({.name = gateway,
       .kind = "gateway",
       .program = "conclave-gateway",
       .flags = {"--name=" + gateway, "--http-listen=" + plan.http_address,
                 "--grpc-listen=" + plan.grpc_address, "--ops-listen=" + plan.gateway_ops_address},
       .address = plan.http_address,
       .ops_address = plan.gateway_ops_address});
  return plan;
}

}  // namespace

absl::Status CheckSettings(const Context& context) {
  const AllOptions& options = context.options;
  for (const char* section : {"up", "controller", "gateway", "engine", "expert"}) {
    RETURN_IF_ERROR(NameSource(options.Validate(section), context.rows));
  }
  for (const absl::Status& status :
       {rpc::ClusterSecret::Load(options.common.cluster_secret_file).status(),
        rpc::ReadClusterTls(options.common.tls, options.common.tls_server_name).status(),
        tls::ReadCertificates(options.gateway.tls).status()}) {
    RETURN_IF_ERROR(NameSource(status, context.rows));
  }
  return absl::OkStatus();
}

absl::StatusOr<ClusterPlan> PlanCluster(const Context& context, int cores) {
  return Planner(context, cores).Plan();
}

}  // namespace conclave::cli
