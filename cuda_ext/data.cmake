# Presets and published calibrations, installed as package data: slam/data.py finds them there.
# An editable install reads them from the checkout, where edits take effect at once.
if(NOT SKBUILD_STATE STREQUAL "editable")
  install(DIRECTORY "${CMAKE_CURRENT_LIST_DIR}/../configs/" DESTINATION slam/_data/configs
          FILES_MATCHING PATTERN "*.yaml")
  install(DIRECTORY "${CMAKE_CURRENT_LIST_DIR}/../datasets/calibrations/"
          DESTINATION slam/_data/calibrations FILES_MATCHING PATTERN "*.yaml")
endif()
