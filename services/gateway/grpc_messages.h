// Between InferenceService's messages and the gateway's values.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "conclave/v1/inference.pb.h"
#include "services/gateway/canonicalize.h"
#include "services/gateway/generation_sink.h"
#include "shared/text/tokenizer.h"

namespace conclave::gateway {

// As the proto calls the fields.
FieldNames GrpcFieldNames();

// The messages of a chat prompt as JSON, with the role "developer" as "system". INVALID_ARGUMENT
// for an unknown role, no message, or template arguments that are no JSON object.
absl::StatusOr<ChatPromptInput> FromProto(const v1::ChatPrompt& chat);
// INVALID_ARGUMENT when the prompt is missing or malformed. Ranges are checked by Canonicalize.
absl::StatusOr<GenerationInput> FromProto(const v1::GenerateRequest& request);

void ToProto(const Started& started, v1::Started* message);
// `tokenizer` gives the bytes of the tokens in logprobs.
void ToProto(const ChoiceTokens& tokens, const text::Tokenizer& tokenizer,
             v1::TokensGenerated* message);
void ToProto(const ChoiceFinished& finished, v1::ChoiceFinished* message);
void ToProto(const Usage& usage, v1::Usage* message);

}  // namespace conclave::gateway
