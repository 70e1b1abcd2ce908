#include "services/cli/fit_checks.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/cli/table.h"
#include "shared/base/address.h"
#include "shared/base/byte_size.h"
#include "shared/model/kv_plan.h"
#include "shared/model/served_model.h"
#include "shared/placement/planner.h"
#include "shared/weights/engine_weights.h"

namespace conclave::cli {
namespace {

// Beyond weights and KV cache: programs, tokenizer, activations of a step, messages.
constexpr int64_t kOtherBytes = int64_t{512} << 20;

int64_t ExpertsInAll(const placement::ModelIdentity& model) {
  return static_cast<int64_t>(model.moe_layers.size()) * model.num_experts;
}

using Own = std::optional<OwnFormats>;

// The class is valid: the settings are checked before.
weights::WeightFormats FormatsOf(const AllOptions& options, const Own& own) {
  if (own) return own->formats;
  return model::ParseNumerics(options.common.numerics).value_or(kernels::NumericsClass::kBf16);
}

// The most precise one that is smaller than what is set; null if none fits.
const ClassBytes* ClassThatFits(const MemoryDemand& demand, int64_t available_bytes) {
  auto each = std::ranges::find(demand.classes, demand.formats, &ClassBytes::formats);
  each = std::find_if(each, demand.classes.end(), [&](const ClassBytes& other) {
    return other.formats != demand.formats && other.in_all + kOtherBytes <= available_bytes;
  });
  return each == demand.classes.end() ? nullptr : &*each;
}

}  // namespace

std::optional<OwnFormats> OwnFormats::Of(const weights::StoredModel& stored,
                                         const weights::WeightFormats& formats) {
  if (stored.packed() != nullptr) return OwnFormats{formats, /*mapped=*/true};
  if (stored.config().integers.layout == weights::IntegerLayout::kNone) return std::nullopt;
  OwnFormats own{formats, /*mapped=*/false};
  const auto add = [&](const std::string& numerics) {
    const auto made = model::ChooseFormats(stored, numerics);
    const bool known =
        made.ok() &&
        std::ranges::find(own.choices, *made, &OwnFormats::Choice::formats) != own.choices.end();
    if (made.ok() && !known) own.choices.push_back({numerics, *made});
  };
  for (const char* numerics : {"f32", "bf16", "auto", "int8", "int4"}) add(numerics);
  return own;
}

std::string ClassBytes::text() const {
  return absl::StrCat(formats.Label(), " ", FormatBytes(bytes));
}

MemoryDemand DemandOf(const weights::ModelConfig& config, const AllOptions& options,
                      const Own& own) {
  const auto engine_bytes = [&](const weights::WeightFormats& formats) {
    return static_cast<int64_t>(weights::EngineBytes(config, formats));
  };
  const auto expert_bytes = [&](const weights::WeightFormats& formats) {
    const placement::ModelIdentity shape = model::ShapeOf(config, formats);
    return ExpertsInAll(shape) * shape.expert_bytes;
  };
  const bool local = options.up.workers == 0 || options.engine.experts == "local";
  const int engine_copies = own && own->mapped ? 1 : options.up.engines;
  MemoryDemand demand;
  demand.formats = FormatsOf(options, own);
  std::vector<OwnFormats::Choice> choices;
  if (!own) {
    for (const kernels::NumericsClass each : kernels::kNumericsClasses) {
      choices.push_back({std::string(kernels::NumericsClassName(each)), each});
    }
  } else if (own->choices.empty()) {
    choices = {{"auto", own->formats}};
  } else {
    choices = own->choices;
  }
  for (const auto& [numerics, each] : choices) {
    const int64_t experts = expert_bytes(each) * (local ? engine_copies : 1);
    const int64_t in_all = engine_bytes(each) * engine_copies + experts;
    demand.classes.push_back({each, engine_bytes(each) + expert_bytes(each), in_all,
                              numerics == each.Label() ? "" : numerics});
    if (each != demand.formats) continue;
    demand.expert_bytes = experts;
    demand.weight_bytes = in_all;
  }
  demand.kv_block_bytes = model::KvBlockBytesOf(config, demand.formats.numerics);
  demand.context_tokens =
      options.engine.context > 0 ? options.engine.context : config.max_positions;
  return demand;
}

absl::Status CheckExpertsFit(const weights::ModelConfig& config, const AllOptions& options,
                             const Own& own) {
  const auto controller = ParseAddress(options.controller.listen);
  const bool alone = controller.ok() && IsLoopback(controller->host);
  const int64_t capacity = options.expert.memory.bytes;
  if (options.up.workers == 0 || options.engine.experts == "local" || capacity == 0 || !alone) {
    return absl::OkStatus();
  }
  const placement::ModelIdentity model = model::ShapeOf(config, FormatsOf(options, own));
  const auto unplaced = [&](int64_t capacity_bytes) {
    std::vector<placement::PlannerWorker> workers;
    for (int i = 0; i < options.up.workers; ++i) {
      workers.push_back({absl::StrCat("expert-", i), capacity_bytes});
    }
    std::sort(workers.begin(), workers.end(),
              [](const auto& a, const auto& b) { return a.name < b.name; });
    return static_cast<int64_t>(placement::PlanPlacement(model, workers, {}).unplaced.size());
  };
  const int64_t left_over = unplaced(capacity);
  if (left_over == 0) return absl::OkStatus();
  const int64_t all = ExpertsInAll(model);
  int64_t each = (all + options.up.workers - 1) / options.up.workers;
  while (each < all && unplaced(each * model.expert_bytes) > 0) ++each;
  return absl::ResourceExhaustedError(
      absl::StrCat("expert.memory is ", FormatBytes(capacity), ": ", left_over, " of the ", all,
                   " experts, of ", FormatBytes(model.expert_bytes), " each, fit on none of ",
                   Count(options.up.workers, "worker"), "; --expert-memory ",
                   each * model.expert_bytes, " is enough, or start more workers"));
}

absl::Status CheckKvFits(const weights::ModelConfig& config, const AllOptions& options,
                         int64_t available_bytes, const Own& own) {
  const MemoryDemand demand = DemandOf(config, options, own);
  int64_t available = available_bytes - demand.weight_bytes;
  for (int i = 0; i < options.up.engines; ++i) {
    const auto plan = model::PlanKv({.model_context = config.max_positions,
                                     .block_bytes = demand.kv_block_bytes,
                                     .context = options.engine.context,
                                     .kv_bytes = options.engine.kv_memory.bytes,
                                     .share = options.engine.kv_memory_share / options.up.engines,
                                     .max_batch = options.engine.max_batch,
                                     .available_bytes = std::max<int64_t>(available, 0)});
    if (!plan.ok()) return plan.status();
    // What is taken by size is taken; shares of what is free leave room for one another.
    if (options.engine.kv_memory.bytes > 0) available -= plan->num_blocks * demand.kv_block_bytes;
  }
  return absl::OkStatus();
}

Check CheckFits(const MemoryDemand& demand, int64_t available_bytes, int64_t total_bytes) {
  const int64_t kv = model::BlocksFor(demand.context_tokens) * demand.kv_block_bytes;
  const int64_t needed = demand.weight_bytes + kv + kOtherBytes;
  Check check{.name = "memory"};
  check.found = absl::StrCat(
      absl::StrJoin(
          demand.classes, ", ",
          [](std::string* out, const ClassBytes& each) { absl::StrAppend(out, each.text()); }),
      " (+ KV ", FormatBytes(kv), " at ", demand.context_tokens, " tokens); free ",
      FormatBytes(available_bytes), " of ", FormatBytes(total_bytes));
  if (needed <= available_bytes) return check;
  // Engines and workers start as long as the weights fit, with as much KV cache as is left.
  const bool starts = demand.weight_bytes <= available_bytes;
  check.verdict = starts ? Verdict::kWarn : Verdict::kFail;
  const int64_t left = available_bytes - demand.weight_bytes - kOtherBytes;
  if (left >= demand.kv_block_bytes && demand.kv_block_bytes > 0) {
    check.remedy = absl::StrCat("--engine-context ", model::TokensIn(left / demand.kv_block_bytes),
                                " fits, or free ", FormatBytes(needed - available_bytes));
  } else if (const ClassBytes* other = ClassThatFits(demand, available_bytes)) {
    const std::string setting = other->numerics.empty()
                                    ? "another --numerics"
                                    : absl::StrCat("--numerics ", other->numerics);
    check.remedy = absl::StrCat(setting, " fits: ", other->text());
  } else if (starts) {
    check.remedy =
        absl::StrCat("free ", FormatBytes(needed - available_bytes),
                     " more: programs and messages take some ", FormatBytes(kOtherBytes));
  } else {
    check.remedy = absl::StrCat(
        "free ", FormatBytes(needed - available_bytes),
        " more, or put expert workers on other machines: ", FormatBytes(demand.expert_bytes),
        " of the weights are experts (docs/two-machines.md)");
  }
  return check;
}

}  // namespace conclave::cli
