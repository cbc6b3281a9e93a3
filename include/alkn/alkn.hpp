// alkn: LLM-unlearning optimizers for LibTorch.
//
// Apart, because LibTorch's archives double the time to compile: alkn/continual/checkpoint.hpp.
#pragma once

#include <alkn/continual/task.hpp>
#include <alkn/objective/losses.hpp>
#include <alkn/objective/token_log_probability.hpp>
#include <alkn/optim/adamw.hpp>
#include <alkn/optim/linear_schedule.hpp>
#include <alkn/optim/methods.hpp>
#include <alkn/optim/unlearner.hpp>
#include <alkn/version.hpp>
