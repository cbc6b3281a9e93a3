// alkn: LLM-unlearning optimizers for LibTorch.
//
// Apart, because LibTorch's archives double the time to compile: alkn/checkpoint/checkpoint.hpp.
#pragma once

#include <alkn/backend.hpp>
#include <alkn/method/methods.hpp>
#include <alkn/method/unlearner.hpp>
#include <alkn/objective/logit_rows.hpp>
#include <alkn/objective/losses.hpp>
#include <alkn/objective/retain_kl.hpp>
#include <alkn/objective/token_log_probability.hpp>
#include <alkn/optim/adamw.hpp>
#include <alkn/optim/linear_schedule.hpp>
#include <alkn/task/task.hpp>
#include <alkn/version.hpp>
