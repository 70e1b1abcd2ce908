// The functions of each instruction set, as the files compiled for it define them. Only
// level_functions.cc, which chooses among them by level, includes this beside those files.
#pragma once

#include "kernels/cpu/logit_passes.h"
#include "kernels/cpu/quantize.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/softmax.h"
#include "kernels/cpu/turned_panel.h"

namespace conclave::kernels::cpu {

extern const RowFunctions kRowsAvx2, kRowsAvx512;
extern const SoftmaxFunctions kSoftmaxAvx2, kSoftmaxAvx512;
extern const QuantizeFunctions kQuantizeAvx2, kQuantizeAvx512;
extern const LogitFunctions kLogitsAvx2, kLogitsAvx512;

void TurnPanelAvx2(const PanelTurn& turn);
void TurnPanelAvx512(const PanelTurn& turn);

}  // namespace conclave::kernels::cpu
