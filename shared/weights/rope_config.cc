#include "shared/weights/rope_config.h"

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"

namespace conclave::weights {
namespace {

constexpr double kLn2 = 0x1.62e42fefa39efp-1;
// Of what follows from several fields; f32 ends here.
constexpr double kMostScale = std::numeric_limits<float>::max();
constexpr char kSupportedTypes[] = "\"default\", \"linear\", \"yarn\"";

// YaRN's attention temperature (arXiv 2309.00071, section 3.4), with DeepSeek's multiplier.
double Temperature(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * PortableLog(factor) + 1;
}

void ReadYarn(ConfigFields& fields, const RopeDefaults& defaults, ParsedRope& parsed) {
  RopeConfig& rope = parsed.rope;
  rope.kind = RopeKind::kYarn;
  rope.original_max_positions = fields.IntegerOr(
      "original_max_position_embeddings",
      defaults.original_max_positions.value_or(defaults.max_positions), {.min = 1});
  const double implied = static_cast<double>(defaults.max_positions) /
                         static_cast<double>(rope.original_max_positions);
  rope.factor = fields.PositiveOr("factor", implied);
  // As in transformers, zero means the default.
  const double beta_fast = fields.NonNegativeOr("beta_fast", 0);
  const double beta_slow = fields.NonNegativeOr("beta_slow", 0);
  rope.beta_fast = beta_fast > 0 ? beta_fast : 32;
  rope.beta_slow = beta_slow > 0 ? beta_slow : 1;
  if (rope.beta_fast < rope.beta_slow) fields.Invalid("beta_fast", "at least beta_slow");
  rope.truncate = fields.BoolOr("truncate", true);
  const double mscale = fields.NonNegativeOr("mscale", 0);
  const double mscale_all_dim = fields.NonNegativeOr("mscale_all_dim", 0);
  const double inferred =
      mscale > 0 && mscale_all_dim > 0
          ? Temperature(rope.factor, mscale) / Temperature(rope.factor, mscale_all_dim)
          : Temperature(rope.factor, 1);
  rope.attention_factor = fields.PositiveOr("attention_factor", inferred);
  if (rope.attention_factor > kMostScale) {
    fields.Invalid("mscale", absl::StrCat("a number that scales attention by at most ", kMostScale,
                                          ", not ", rope.attention_factor));
  }
  if (defaults.latent && mscale_all_dim > 0) {
    const double m = Temperature(rope.factor, mscale_all_dim);
    parsed.score_scale = m * m;
    if (parsed.score_scale > kMostScale) {
      fields.Invalid("mscale_all_dim", absl::StrCat("a number that scales attention by at most ",
                                                    kMostScale, ", not ", parsed.score_scale));
    }
  }
}

// Reads one rope_scaling or rope_parameters object.
ParsedRope ReadObject(ConfigFields& fields, const RopeDefaults& defaults) {
  ParsedRope parsed;
  for (const char* layer_type : {"full_attention", "sliding_attention"}) {
    if (fields.Has(layer_type)) fields.Unsupported(layer_type, "one rope for all layers");
  }
  fields.OnlyNumber("partial_rotary_factor", 1);
  parsed.rope.theta = fields.PositiveOr("rope_theta", defaults.theta);
  const std::string old_name = fields.TextOr("type", "");
  const std::string type = fields.TextOr("rope_type", old_name.empty() ? "default" : old_name);
  if (!old_name.empty() && old_name != type) {
    fields.Invalid("type", absl::StrCat("the same as rope_type, \"", type, "\""));
  } else if (type == "linear") {
    parsed.rope.kind = RopeKind::kLinear;
    if (!fields.Has("factor")) fields.Invalid("factor", "a number above 0");
    parsed.rope.factor = fields.PositiveOr("factor", 1);
    if (defaults.latent) fields.OnlyNumber("mscale_all_dim", 0);
  } else if (type == "yarn") {
    ReadYarn(fields, defaults, parsed);
  } else if (type != "default") {
    fields.Unsupported(fields.Has("rope_type") ? "rope_type" : "type", kSupportedTypes);
  }
  return parsed;
}

bool SameRope(const ParsedRope& a, const ParsedRope& b) {
  return a.rope == b.rope && a.score_scale == b.score_scale;
}

}  // namespace

double PortableLog(double x) {
  // x = m * 2^e with m in [sqrt(1/2), sqrt(2)); ln m = 2 atanh((m - 1) / (m + 1)) by its series,
  // whose terms fall by more than 2^5 each.
  int exponent = 0;
  double m = std::frexp(x, &exponent);
  if (m < 0x1.6a09e667f3bcdp-1) {
    m *= 2;
    --exponent;
  }
  const double t = (m - 1) / (m + 1);
  const double t2 = t * t;
  double sum = 0;
  for (int k = 23; k >= 1; k -= 2) sum = sum * t2 + 1.0 / k;
  return exponent * kLn2 + 2 * t * sum;
}

ParsedRope ReadRope(ConfigFields& config, const std::string& where, const RopeDefaults& defaults,
                    bool strict, std::vector<std::string>* warnings) {
  config.OnlyNumber("partial_rotary_factor", 1);
  const bool has_outer_theta = config.Has("rope_theta");
  // Of YaRN; some configs have it here, and some programs heed this one, some the object's.
  const int64_t outer_original =
      config.IntegerOr("original_max_position_embeddings", 0, {.min = 1});
  RopeDefaults with_theta = defaults;
  with_theta.theta = config.PositiveOr("rope_theta", defaults.theta);
  if (outer_original > 0) with_theta.original_max_positions = outer_original;
  ParsedRope parsed;
  parsed.rope.theta = with_theta.theta;
  bool found = false;
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    const nlohmann::json& object = config.Raw(name);
    if (object.is_null()) continue;
    if (!object.is_object()) {
      config.Invalid(name, "an object or null");
      return parsed;
    }
    ConfigFields fields(object, absl::StrCat(where, ": ", name));
    const ParsedRope read = ReadObject(fields, with_theta);
    config.Fail(fields.Finish(strict, warnings));
    if (has_outer_theta && read.rope.theta != with_theta.theta) {
      config.Invalid("rope_theta", absl::StrCat("the same as in ", name, ", ", read.rope.theta));
    }
    const int64_t original = read.rope.original_max_positions;
    if (outer_original > 0 && read.rope.kind == RopeKind::kYarn && original != outer_original) {
      config.Invalid("original_max_position_embeddings",
                     absl::StrCat("the same as in ", name, ", ", original));
    }
    if (found && !SameRope(parsed, read)) {
      config.Invalid("rope_parameters", "the same as rope_scaling says, or one of them only");
    }
    parsed = read;
    found = true;
  }
  return parsed;
}

}  // namespace conclave::weights
