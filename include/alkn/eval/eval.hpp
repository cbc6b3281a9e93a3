// All metrics. compressed_size.hpp is apart: it needs zlib.
#pragma once

#include "alkn/eval/arrays.hpp"
#include "alkn/eval/bootstrap.hpp"
#include "alkn/eval/forget_quality.hpp"
#include "alkn/eval/membership.hpp"
#include "alkn/eval/memorization.hpp"
#include "alkn/eval/model_utility.hpp"
#include "alkn/eval/porter_stemmer.hpp"
#include "alkn/eval/probability.hpp"
#include "alkn/eval/rouge.hpp"
#include "alkn/eval/task_matrix.hpp"
