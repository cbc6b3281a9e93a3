// Compiles where nlohmann's JSON converts nothing implicitly, as its users may ask for.
#include <alkn/alkn.hpp>
#include <alkn/checkpoint/checkpoint.hpp>
#include <alkn/io/tensors.hpp>

template void alkn::save_checkpoint(const std::filesystem::path&, const alkn::ALKN<>&,
                                    const alkn::io::NamedTensors&);
template std::optional<alkn::ALKN<>::TaskType> alkn::load_checkpoint(const std::filesystem::path&,
                                                                     alkn::ALKN<>&,
                                                                     const alkn::io::NamedTensors&);
