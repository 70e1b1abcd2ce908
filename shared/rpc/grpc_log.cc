#include "shared/rpc/grpc_log.h"

#include <mutex>

#include "grpc/support/log.h"
#include "shared/base/log.h"

namespace conclave::rpc {

void RouteGrpcLog() {
  static std::once_flag once;
  std::call_once(once, [] {
    gpr_set_log_function([](gpr_log_func_args* message) {
      LogDebug(message->message, {{"grpc_file", message->file}, {"grpc_line", message->line}});
    });
  });
}

}  // namespace conclave::rpc
