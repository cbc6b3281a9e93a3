// How a question and its answer become one text: the chat template of a model, or a user's format.
#pragma once

#include <alkn/io/text.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "tokenizers/tokenizer.hpp"
#include "tokenizers/utf8.hpp"

namespace tokenizers {

/// prompt = before question between, answer = lead answer tail, and the end token.
struct ChatFormat {
  std::string name;
  std::string before, between, lead, tail;
  std::string end;           ///< text of the token that ends an answer; empty: the model's own
  bool chat = false;         ///< the template brings its own begin; else the tokenizer's goes first
  bool strips = false;       ///< blanks around question and answer go, as the template has it
  bool needs_begin = false;  ///< `before` starts with the text of bos_token

  [[nodiscard]] std::string prompt(std::string_view question) const {
    return before + std::string(strips ? stripped(question) : question) + between;
  }
  [[nodiscard]] std::string answer(std::string_view text) const {
    return lead + std::string(strips ? stripped(text) : text) + tail;
  }

  /// `text` without the blanks around it, as Python's str.strip has it.
  static std::string_view stripped(std::string_view text) {
    const auto blank = [](std::int32_t code) {
      return is_white_space(code) || (code >= 0x1c && code <= 0x1f);
    };
    while (!text.empty() && blank(first_character(text).code)) {
      text.remove_prefix(first_character(text).size);
    }
    while (!text.empty() && blank(last_character(text).code)) {
      text.remove_suffix(last_character(text).size);
    }
    return text;
  }
};

namespace detail {

inline ChatFormat chat_ml(const std::string& name, const std::string& system) {
  ChatFormat format;
  format.name = name;
  format.before = (system.empty() ? "" : "<|im_start|>system\n" + system + "<|im_end|>\n") +
                  "<|im_start|>user\n";
  format.between = "<|im_end|>\n<|im_start|>assistant\n";
  format.end = "<|im_end|>";
  format.chat = true;
  return format;
}

inline ChatFormat llama2() {
  ChatFormat format;
  format.name = "Llama 2";
  format.before = "[INST] ";
  format.between = " [/INST]";
  format.lead = " ";
  format.tail = " ";
  format.end = "</s>";
  format.chat = format.strips = format.needs_begin = true;
  return format;
}

inline ChatFormat llama3() {
  ChatFormat format;
  format.name = "Llama 3";
  format.before = "<|start_header_id|>user<|end_header_id|>\n\n";
  format.between = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n";
  format.end = "<|eot_id|>";
  format.chat = format.strips = format.needs_begin = true;
  return format;
}

// The templates as the models have them. Raw strings: line ends within are written \n.
inline constexpr std::string_view kChatMlLoop =
    R"({{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}})"
    R"({% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %})";
inline constexpr std::string_view kLlama2 =
    R"({% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %})"
    R"({% set system_message = messages[0]['content'] %}{% else %})"
    R"({% set loop_messages = messages %}{% set system_message = false %}{% endif %})"
    R"({% for message in loop_messages %})"
    R"({% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ )"
    R"(raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') )"
    R"(}}{% endif %}{% if loop.index0 == 0 and system_message != false %})"
    R"({% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %})"
    R"({% else %}{% set content = message['content'] %}{% endif %})"
    R"({% if message['role'] == 'user' %})"
    R"({{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }})"
    R"({% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }})"
    R"({% endif %}{% endfor %})";
inline constexpr std::string_view kLlama3Loop =
    R"({% set loop_messages = messages %}{% for message in loop_messages %})"
    R"({% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ )"
    R"(message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %})"
    R"({% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %})";
inline constexpr std::string_view kLlama3Prompt =
    R"({{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }})";

/// The template of ChatML with a default system line.
inline std::string chat_ml_template(const std::string& system) {
  const std::string line =
      R"({% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n)" +
      system + R"(<|im_end|>\n' }}{% endif %})";
  return "{% for message in messages %}" + (system.empty() ? "" : line) + std::string(kChatMlLoop);
}

inline std::string replaced(std::string text, std::string_view from, std::string_view to) {
  for (auto at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
  return text;
}

}  // namespace detail

/// The format whose chat template has exactly the text `text`, none where none has. A line end
/// within a template's strings may be written as such or as \n: both say the same.
inline std::optional<ChatFormat> known_chat_format(std::string_view text) {
  const std::string wanted = detail::replaced(std::string(text), "\n", "\\n");
  static constexpr std::array<std::array<const char*, 2>, 4> kSystems{{
      {"SmolLM2", "You are a helpful AI assistant named SmolLM, trained by Hugging Face"},
      {"Qwen2", "You are a helpful assistant."},
      {"Qwen1.5", "You are a helpful assistant"},
      {"ChatML", ""},
  }};
  for (const auto& [name, system] : kSystems) {
    if (wanted == detail::chat_ml_template(system)) {
      return detail::chat_ml(name, system);
    }
  }
  const std::string loop(detail::kLlama3Loop), prompt(detail::kLlama3Prompt);
  if (wanted == loop + prompt ||
      wanted == loop + "{% if add_generation_prompt %}" + prompt + "{% endif %}") {
    return detail::llama3();
  }
  if (wanted == detail::kLlama2) {
    return detail::llama2();
  }
  return std::nullopt;
}

/// A user's format, say "Question: {question}\nAnswer: {answer}"; \n, \t and \\ in it are these
/// characters. Blanks before {answer} belong to the answer: vocabularies have words with a space
/// before them. Throws where {question} and {answer} are not there once, in this order.
inline ChatFormat user_format(std::string_view written) {
  std::string text;
  for (std::size_t i = 0; i < written.size(); ++i) {
    const std::string_view pair = written.substr(i, 2);
    const bool escape = pair == "\\n" || pair == "\\t" || pair == "\\\\";
    text += !escape ? pair[0] : pair == "\\n" ? '\n' : pair == "\\t" ? '\t' : '\\';
    i += escape ? 1 : 0;
  }
  require_utf8(text, "--format");
  constexpr std::string_view kQuestion = "{question}", kAnswer = "{answer}";
  const auto question = text.find(kQuestion);
  const auto answer = text.find(kAnswer);
  if (question == std::string::npos || answer == std::string::npos || answer < question ||
      text.find(kQuestion, question + 1) != std::string::npos ||
      text.find(kAnswer, answer + 1) != std::string::npos) {
    fail("one {question} and one {answer} behind it", "\"" + alkn::io::printable(written) + "\"",
         "--format");
  }
  ChatFormat format;
  format.name = "--format";
  format.before = text.substr(0, question);
  format.between = text.substr(question + kQuestion.size(), answer - question - kQuestion.size());
  format.tail = text.substr(answer + kAnswer.size());
  const auto blanks = format.between.find_last_not_of(' ') + 1;
  format.lead = format.between.substr(blanks);
  format.between.resize(blanks);
  return format;
}

}  // namespace tokenizers
